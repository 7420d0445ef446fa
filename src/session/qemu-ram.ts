import { MachineError } from "../errors/index.js";
import type { QmpClient } from "../qmp/index.js";

/** A RAM block of a QEMU, as it is told on its human monitor. Sizes in bytes. */
export interface QemuRamBlock {
  /** What the QEMU places at once when it waits for pages: 4 KiB as a rule, 2 MiB for memory in huge pages. */
  readonly hostPageSize: number;
  readonly usedLength: number;
  /** What the block can grow to. */
  readonly maximumLength: number;
}

/** `  pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 ...`: name, page, offset, used, total. */
const LINE =
  /^ *(?<name>\S.*?) +(?<size>\d+) (?<unit>B|KiB|MiB|GiB) +0x[0-9a-f]+ +0x(?<used>[0-9a-f]+) +0x(?<total>[0-9a-f]+)/;

const UNITS: readonly string[] = ["B", "KiB", "MiB", "GiB"];

/**
 * Asks a QEMU for its RAM blocks, by name. Only the human monitor tells them; that is a text for people, and what of it is
 * not understood is passed over.
 */
export async function queryRamBlocks(qmp: QmpClient): Promise<ReadonlyMap<string, QemuRamBlock>> {
  const answer = await qmp.execute("human-monitor-command", { "command-line": "info ramblock" });
  return parseRamBlocks(answer);
}

/** The blocks in the answer to `info ramblock`. */
export function parseRamBlocks(text: string): ReadonlyMap<string, QemuRamBlock> {
  const blocks = new Map<string, QemuRamBlock>();
  for (const line of text.split(/\r?\n/)) {
    const found = LINE.exec(line)?.groups;
    if (found === undefined) continue;
    const { name = "", size = "", unit = "", used = "", total = "" } = found;
    blocks.set(name, {
      hostPageSize: Number(size) * 1024 ** UNITS.indexOf(unit),
      usedLength: Number.parseInt(used, 16),
      maximumLength: Number.parseInt(total, 16),
    });
  }
  return blocks;
}

/**
 * Checks that a QEMU has a place for every block of a snapshot. Its own words for a difference come later, and mean less.
 *
 * @param blocks None at all when the QEMU did not tell: then nothing is checked.
 * @throws MachineError `not-capable`.
 */
export function checkRamBlocks(
  snapshot: { readonly blocks: readonly { readonly name: string; readonly usedLength: number }[] },
  blocks: ReadonlyMap<string, QemuRamBlock>,
): void {
  if (blocks.size === 0) return;
  for (const { name, usedLength } of snapshot.blocks) {
    const place = blocks.get(name);
    if (place !== undefined && usedLength <= place.maximumLength) continue;
    throw new MachineError(
      "not-capable",
      place === undefined
        ? "This QEMU has no RAM block of that name"
        : "This QEMU has less memory than the snapshot",
      {
        block: name,
        ...(place === undefined
          ? {}
          : { expected: `${usedLength} bytes`, actual: `${place.maximumLength} bytes` }),
        hint: "start it with the arguments of the QEMU that was saved: -machine, -m and devices",
      },
    );
  }
}
