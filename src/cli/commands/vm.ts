import { Console } from "node:console";
import process from "node:process";

import type { DescriptorSets } from "../../channels/index.js";
import { MachineError, printable, RamportError, UsageError } from "../../errors/index.js";
import { SERIAL_PORTS } from "../../hosts/v86/index.js";
import {
  parseChardev,
  parseSocketChardev,
  type RunningVm,
  splitAtCommas,
  startVm,
  type VmOptions,
} from "../../vm/index.js";
import { ExitCode } from "../exit-codes.js";
import { byteCount } from "../parse-options.js";
import { reportError } from "../report-error.js";

/** The options of `ramport vm` as they are parsed; a name is QEMU's. */
export interface VmFlags {
  readonly m?: string;
  readonly machine?: string;
  readonly kernel?: string;
  readonly multiboot?: string;
  readonly initrd?: string;
  readonly append?: string;
  readonly bios?: string;
  readonly vgabios?: string;
  readonly hda?: string;
  readonly fda?: string;
  readonly cdrom?: string;
  readonly serial?: readonly string[];
  readonly qmp?: readonly string[];
  readonly incoming?: string;
  readonly S?: boolean;
  readonly name?: string;
  readonly uuid?: string;
  readonly addFd?: readonly string[];
  readonly memPath?: string;
  readonly memShare?: string;
  readonly verbose?: boolean;
}

const MIB = 1 << 20;
const DEFAULT_MEMORY_BYTES = 128 * MIB;
const ENDING_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** `ramport vm`: runs until its monitor or a signal ends it, and ends the process. */
export async function vm(flags: VmFlags): Promise<void> {
  const options = optionsFrom(flags);
  // v86 tells of itself on the console; standard output is the guest's.
  globalThis.console = new Console(process.stderr, process.stderr);
  const interrupted = new AbortController();
  const { signal } = interrupted;
  endOnSignals(interrupted);
  // The guest does not end because nobody listens to it any more.
  process.stdout.removeAllListeners("error").on("error", () => undefined);
  const broken = new BrokenMachine(flags.verbose ?? false);
  const running = await startVm({ ...options, signal }).catch((error: unknown) => {
    // There is nothing to end yet.
    if (signal.aborted) process.exit(ExitCode.fine);
    throw error;
  });
  broken.watch(running);
  const end = (): void => running.machine.shutDown({ reason: "host-signal" });
  if (signal.aborted) end();
  else signal.addEventListener("abort", end);
  const { error } = await running.ended;
  await running.close();
  if (error !== undefined) reportError(error, flags.verbose ?? false);
  // Whatever is open still is of no use without the machine.
  if (broken.isBroken) process.exit(ExitCode.machine);
  process.exit(error === undefined ? ExitCode.fine : ExitCode.badInput);
}

/** How long a machine whose emulator broke may take to give everything back. */
const BROKEN_ENDING_MS = 5000;

/** v86 computes in timers of its own: what breaks it there is thrown past everybody, and this is where it is heard. */
class BrokenMachine {
  readonly #verbose: boolean;
  #running: RunningVm | undefined;
  isBroken = false;

  constructor(verbose: boolean) {
    this.#verbose = verbose;
    process.on("uncaughtException", (cause: unknown) => this.#end(cause));
  }

  /** From now on there is something to give back. */
  watch(running: RunningVm): void {
    this.#running = running;
  }

  #end(cause: unknown): void {
    if (this.isBroken) return;
    this.isBroken = true;
    const error =
      cause instanceof RamportError
        ? cause
        : new MachineError("not-capable", `The emulator cannot go on: ${String(cause)}`, {}, cause);
    if (this.#running === undefined) {
      reportError(error, this.#verbose);
      process.exit(ExitCode.machine);
    }
    this.#running.machine.shutDown({ reason: "host-error", error });
    setTimeout(() => process.exit(ExitCode.machine), BROKEN_ENDING_MS);
  }
}

/** The first signal asks the machine to end; the next one does not wait for it. */
function endOnSignals(interrupted: AbortController): void {
  const end = (name: string): void => {
    if (interrupted.signal.aborted) process.exit(ExitCode.cancelled);
    process.stderr.write(`ramport: terminating on signal ${name}\n`);
    interrupted.abort();
  };
  for (const name of ENDING_SIGNALS) process.on(name, end);
}

function optionsFrom(flags: VmFlags): VmOptions {
  const { kernel, multiboot, initrd, append, bios, vgabios: vgaBios, hda, fda, cdrom } = flags;
  const { serial = [], qmp = [], incoming, uuid, memPath } = flags;
  if (serial.length > SERIAL_PORTS) throw new UsageError(`A v86 has ${SERIAL_PORTS} serial ports at most`);
  const chardevs = serial.map((text) => parseChardev(text, "-serial"));
  if (chardevs.filter(({ kind }) => kind === "stdio").length > 1)
    throw new UsageError("Only one serial port can have standard input and output");
  checkSharing(flags);
  const name = flags.name === undefined ? undefined : machineName(flags.name);
  const images = { kernel, multiboot, initrd, append, bios, vgaBios, hda, fda, cdrom };
  return {
    memoryBytes: flags.m === undefined ? DEFAULT_MEMORY_BYTES : memorySize(flags.m),
    images: Object.fromEntries(Object.entries(images).filter(([, value]) => value !== undefined)),
    acpi: hasAcpi(flags.machine),
    serial: chardevs,
    monitors: qmp.map((text) => parseSocketChardev(text, "-qmp")),
    autostart: flags.S !== true,
    descriptorSets: descriptorSets(flags.addFd ?? []),
    ...(incoming === undefined ? {} : { incoming }),
    ...(uuid === undefined ? {} : { uuid }),
    ...(name === undefined ? {} : { name }),
    ...(memPath === undefined ? {} : { sharedMemoryPath: memPath }),
    onListening: (address, waits) => {
      process.stderr.write(`ramport: ${waits ? "waiting for a client at" : "listening at"} ${address}\n`);
    },
  };
}

/** A number alone is MiB; `size=` may stand before it. */
function memorySize(text: string): number {
  const size = text.replace(/^size=/, "");
  return byteCount("-m")(/^\d+$/.test(size) ? `${size}M` : size);
}

/** QEMU's `-machine acpi=on`: the rest of what it takes there means nothing for a v86. */
function hasAcpi(text: string | undefined): boolean {
  if (text === undefined || text === "acpi=off") return false;
  if (text === "acpi=on") return true;
  throw new UsageError(`-machine does not understand "${printable(text)}"`, {
    hint: "write acpi=on or acpi=off",
  });
}

/** QEMU's `-name NAME,...` and `-name guest=NAME`. */
function machineName(text: string): string {
  const [first = ""] = splitAtCommas(text);
  return first.replace(/^guest=/, "");
}

function checkSharing({ memPath, memShare }: VmFlags): void {
  if (memPath === undefined && memShare === undefined) return;
  if (memPath === undefined) throw new UsageError("-mem-share says how a file is used: add -mem-path");
  if (memShare === "on") return;
  throw new UsageError("Guest memory in a file is of use only when it is shared", {
    hint: "add -mem-share on",
  });
}

/** `fd=N,set=M`; `opaque=` may follow. */
function descriptorSets(texts: readonly string[]): DescriptorSets {
  const sets = new Map<number, number[]>();
  for (const text of texts) {
    const settings = new Map(
      splitAtCommas(text).map((part) => [part.split("=", 1)[0], part.replace(/^.*?=/s, "")]),
    );
    const [fd = "", set = ""] = ["fd", "set"].map((key) => settings.get(key));
    if (!/^\d{1,9}$/.test(fd) || !/^\d{1,9}$/.test(set)) {
      throw new UsageError(`-add-fd does not understand "${printable(text)}"`, { hint: "write fd=N,set=M" });
    }
    sets.set(Number(set), [...(sets.get(Number(set)) ?? []), Number(fd)]);
  }
  return sets;
}
