import { printable } from "../../errors/index.js";
import { listSharedThings, listTerminalUse } from "./clone-conflicts.js";
import { type BackendOption, formatBackend, parseBackend } from "./memory-backend.js";
import {
  formatQemuCommandLine,
  joinParts,
  option,
  type OptionPart,
  parseParts,
  parseSize,
  part,
  type QemuCommandLine,
  type QemuOption,
} from "./qemu-options.js";

/** A machine type that a QEMU has. */
export interface MachineType {
  readonly name: string;
  readonly alias?: string;
  readonly isDefault: boolean;
  /** What its memory is called, when no backend is named for it. */
  readonly defaultRamId?: string;
}

/** What a snapshot says of itself, for a command line to agree with. */
export interface SnapshotMemory {
  /** Absolute, as the QEMU that maps it has to find it. */
  readonly path: string;
  readonly machine: string;
  readonly blocks: readonly {
    readonly name: string;
    readonly usedLength: number;
    /** Absent for shared RAM that the snapshot does not hold (x-ignore-shared). */
    readonly pagesOffset?: number;
  }[];
}

/** A RAM block that a clone maps from the snapshot. */
export interface MappedBlock {
  /** The memory backend's name. */
  readonly id: string;
  /** The block's name, in the stream. */
  readonly block: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

/** A command line whose QEMU has the snapshot's page areas as its memory. */
export interface MemoryPlan {
  /** Without `-incoming`, and with placeholders as they were. */
  readonly argv: readonly string[];
  readonly mapped: readonly MappedBlock[];
  /** The backend that is the machine's own memory; absent where NUMA nodes are. */
  readonly mainBackend?: string;
  /** Why this command line cannot clone this snapshot; what else is here counts only when there are none. */
  readonly problems: readonly string[];
  /** What was left out of the command line, for its user to know. */
  readonly notes: readonly string[];
}

/** Options that clones have from ramport, or that stand for memory which is the snapshot's now. */
const REPLACED = new Set(["incoming", "mem-path", "mem-prealloc"]);

/** Options that a clone cannot have. */
const IMPOSSIBLE: Readonly<Record<string, string>> = {
  loadvm: "-loadvm loads another state: leave it out",
  daemonize: "-daemonize hides the process: leave it out, and use --detach",
  preconfig: "-preconfig waits before there is a machine: leave it out",
};

/**
 * Rewrites a QEMU command line so that the snapshot's page areas are the guest's memory, and says all that does not fit.
 *
 * @param count How many clones there will be: what they cannot share needs their number in it.
 */
export function planMemory(
  line: QemuCommandLine,
  snapshot: SnapshotMemory,
  machines: readonly MachineType[],
  count = 1,
): MemoryPlan {
  return new Planner(line, snapshot, machines).plan(count);
}

class Planner {
  readonly #line: QemuCommandLine;
  readonly #snapshot: SnapshotMemory;
  readonly #machines: readonly MachineType[];
  readonly #problems: string[] = [];
  readonly #notes: string[] = [];
  readonly #mapped: MappedBlock[] = [];

  constructor(line: QemuCommandLine, snapshot: SnapshotMemory, machines: readonly MachineType[]) {
    this.#line = line;
    this.#snapshot = snapshot;
    this.#machines = machines;
  }

  plan(count: number): MemoryPlan {
    const { options } = this.#line;
    const machineParts = this.#partsOf("machine", "type");
    const machine = this.#machineType(lastValue(machineParts, "type"));
    const kept = options.flatMap((each) => this.#rewrite(each));
    const main = this.#mainMemory(machine, lastValue(machineParts, "memory-backend"));
    if (main !== undefined) kept.push(...main.options);
    if (this.#mapped.length === 0 && this.#problems.length === 0) {
      this.#problems.push(`No memory of this command line is in the snapshot (${this.#blockNames()})`);
    }
    for (const [name, problem] of Object.entries(IMPOSSIBLE)) {
      if (options.some((each) => each.name === name)) this.#problems.push(problem);
    }
    if (lastValue(this.#partsOf("overcommit", "mem-lock"), "mem-lock") === "on")
      this.#problems.push("-overcommit mem-lock=on would give each clone a copy of all memory: leave it out");
    this.#problems.push(...listTerminalUse(options), ...(count > 1 ? listSharedThings(options, count) : []));
    return {
      argv: formatQemuCommandLine({ program: this.#line.program, options: kept }),
      mapped: this.#mapped,
      ...(main === undefined ? {} : { mainBackend: main.id }),
      problems: this.#problems,
      notes: this.#notes,
    };
  }

  #partsOf(name: string, impliedKey: string): OptionPart[] {
    return this.#line.options.flatMap((each) =>
      each.name === name && each.value !== undefined ? parseParts(each.value, impliedKey) : [],
    );
  }

  /** Finds the machine type, by its name, another name, or because it is the default one. */
  #machineType(wanted: string | undefined): MachineType | undefined {
    const { machine: saved } = this.#snapshot;
    const has = this.#machines.some(({ name }) => name === saved);
    const hint = has ? `write -machine ${printable(saved)}` : "this QEMU does not have that one";
    const type = this.#machines.find(({ name, alias, isDefault }) =>
      wanted === undefined ? isDefault : name === wanted || alias === wanted,
    );
    if (type === undefined) {
      const what = wanted === undefined ? "no machine type is named" : `there is no machine type ${wanted}`;
      this.#problems.push(`The snapshot is of ${printable(saved)}, and ${printable(what)}: ${hint}`);
    } else if (type.name !== saved) {
      const named = wanted === undefined || wanted === type.name ? type.name : `${wanted}, here ${type.name}`;
      this.#problems.push(
        `The snapshot is of ${printable(saved)}, the command line of ${printable(named)}: ${hint}`,
      );
    }
    return type;
  }

  /** What becomes of an option: itself, another one, or none. */
  #rewrite(each: QemuOption): QemuOption[] {
    if (REPLACED.has(each.name)) {
      if (each.name !== "incoming")
        this.#notes.push(`${each.word} was left out: the snapshot is the memory of clones`);
      return [];
    }
    if (each.value === undefined) return [each];
    if (each.name === "machine") {
      const parts = parseParts(each.value, "type").filter(({ key }) => key !== "memory-backend");
      return parts.length === 0 ? [] : [{ ...each, value: joinParts(parts) }];
    }
    if (each.name !== "object") return [each];
    const backend = parseBackend(each.value);
    if (backend === undefined) return [each];
    const mapped = this.#mapBackend(backend);
    return mapped === undefined ? [each] : [{ ...each, value: formatBackend(backend, mapped, this.#place) }];
  }

  get #place(): { readonly path: string } {
    return { path: this.#snapshot.path };
  }

  #mapBackend({ id, sizeBytes, isShared, ignored }: BackendOption): MappedBlock | undefined {
    const name = printable(id);
    const block = this.#findBlock(id) ?? this.#findBlock(`/objects/${id}`);
    if (block?.pagesOffset === undefined) {
      this.#problems.push(
        block === undefined
          ? `-object ${name} is no memory of the snapshot (${this.#blockNames()})`
          : `-object ${name} was left out of the snapshot, as shared memory is (x-ignore-shared)`,
      );
      return undefined;
    }
    if (isShared) {
      this.#problems.push(
        `-object ${name} is shared with other processes, and the memory of clones is their own: vhost-user and the like cannot have it`,
      );
    }
    if (sizeBytes !== block.usedLength) {
      this.#problems.push(
        `-object ${name} has ${sizeText(sizeBytes)}, and in the snapshot ${sizeText(block.usedLength)}`,
      );
    }
    if (ignored.length > 0)
      this.#notes.push(
        `${ignored.join(", ")} of -object ${name} left out: the snapshot is the memory of clones`,
      );
    const mapped = { id, block: block.name, offset: block.pagesOffset, sizeBytes: block.usedLength };
    this.#mapped.push(mapped);
    return mapped;
  }

  /** Names the machine's own memory, making a backend for it where the command line has none. */
  #mainMemory(
    machine: MachineType | undefined,
    named: string | undefined,
  ): { readonly id: string; readonly options: readonly QemuOption[] } | undefined {
    const id = named ?? machine?.defaultRamId;
    if (id === undefined) return undefined;
    const existing = this.#mapped.find((mapped) => mapped.id === id);
    const block = existing === undefined ? this.#findBlock(id) : this.#findBlock(existing.block);
    if (existing === undefined && named !== undefined) {
      // Where there is one, what is wrong with it was said.
      if (!this.#hasObject(named))
        this.#problems.push(`-machine memory-backend=${printable(named)} names no memory backend`);
      return undefined;
    }
    if (block?.pagesOffset === undefined) {
      if (this.#mapped.length === 0)
        this.#problems.push(
          `The memory of ${printable(machine?.name ?? "")} is called ${id}, and the snapshot has none of that name (${this.#blockNames()})`,
        );
      return undefined;
    }
    const options: QemuOption[] = [];
    if (existing === undefined) {
      const mapped = { id, block: id, offset: block.pagesOffset, sizeBytes: block.usedLength };
      this.#mapped.push(mapped);
      options.push(option("object", formatBackend(undefined, mapped, this.#place)));
    }
    options.push(option("machine", joinParts([part("memory-backend", id)])));
    if (!this.#checkSize(block.usedLength)) options.push(option("m", `size=${block.usedLength / 1024}K`));
    return { id, options };
  }

  /** @returns Whether the command line says a size at all. */
  #checkSize(usedLength: number): boolean {
    const text = lastValue(this.#partsOf("m", "size"), "size");
    if (text === undefined) return false;
    const bytes = parseSize(text, 1 << 20);
    // QEMU rounds up too.
    if (bytes === undefined || Math.ceil(bytes / 8192) * 8192 !== usedLength) {
      this.#problems.push(
        `-m ${printable(text)} is not the size of the snapshot's memory: write -m ${sizeText(usedLength)}, or leave it out`,
      );
    }
    return true;
  }

  #hasObject(id: string): boolean {
    return this.#line.options.some(
      ({ name, value }) => name === "object" && value !== undefined && parseBackend(value)?.id === id,
    );
  }

  #findBlock(name: string): SnapshotMemory["blocks"][number] | undefined {
    return this.#snapshot.blocks.find((block) => block.name === name);
  }

  #blockNames(): string {
    const largest = [...this.#snapshot.blocks].sort((a, b) => b.usedLength - a.usedLength).slice(0, 4);
    const names = largest.map(({ name, usedLength }) => `${printable(name)} of ${sizeText(usedLength)}`);
    return `it has ${names.join(", ")}${this.#snapshot.blocks.length > 4 ? ", ..." : ""}`;
  }
}

function lastValue(parts: readonly OptionPart[], key: string): string | undefined {
  return parts.findLast((each) => each.key === key)?.value;
}

/** A size as `-m` and backends take it: 2G, 130M, 8200K. */
export function sizeText(bytes: number | undefined): string {
  if (bytes === undefined) return "no size";
  for (const [exponent, suffix] of [
    [3, "G"],
    [2, "M"],
    [1, "K"],
  ] as const) {
    if (bytes >= 1024 ** exponent && bytes % 1024 ** exponent === 0)
      return `${bytes / 1024 ** exponent}${suffix}`;
  }
  return `${bytes}B`;
}
