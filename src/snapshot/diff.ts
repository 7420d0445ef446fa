import { UsageError } from "../errors/index.js";
import { formatUuid } from "../wire/index.js";
import { type DeviceDifference, diffDevices } from "./diff-devices.js";
import { comparePages, type PageChange, type PageChangeRun } from "./diff-pages.js";
import { WalkPace, type WalkOptions } from "./page-windows.js";
import type { Snapshot, SnapshotBlock } from "./snapshot.js";
import { WindowScanners } from "./window-scanners.js";

/** Pages of a block, or of a guest, by what became of them. */
export interface PageChanges {
  /** Of the same content, zero or not. */
  readonly equal: number;
  /** How many of the equal ones are zero in both. */
  readonly equalZero: number;
  readonly changed: number;
  readonly becameZero: number;
  /** Zero in A, with content in B. */
  readonly appeared: number;
  /** Pages that only A's or only B's block is long enough for. */
  readonly onlyInA: number;
  readonly onlyInB: number;
}

/** Pages `start` up to, not including, `end` of a block, of which the same has become. */
export interface DiffRange {
  readonly start: number;
  readonly end: number;
  readonly change: "equal" | "changed" | "became-zero" | "appeared" | "only-in-a" | "only-in-b";
}

/** A block that both snapshots have. */
export interface DiffBlock {
  /** Raw: may hold any character. */
  readonly name: string;
  /** Bytes. */
  readonly pageSize: number;
  readonly pagesInA: number;
  readonly pagesInB: number;
}

/** A block whose memory only one of the snapshots has. */
export interface DiffBlockOnlyIn {
  /** Raw: may hold any character. */
  readonly name: string;
  /** Bytes. */
  readonly usedLength: number;
  readonly onlyIn: "a" | "b";
  /** Present when the other snapshot has the block and left its memory out (x-ignore-shared). */
  readonly leftOutByOther?: true;
}

/** A block that both snapshots left out (x-ignore-shared): nobody knows whether it is the same. */
export interface DiffBlockLeftOut {
  readonly name: string;
  readonly usedLength: number;
}

/** Everything at a glance. */
export interface DiffSummary {
  /** Whether memory and devices are the same, as far as the files have them. */
  readonly same: boolean;
  readonly pages: PageChanges;
  readonly blocksOnlyInOne: number;
  readonly devicesOnlyInOne: number;
  /** Fields of devices that differ. */
  readonly fields: number;
}

/**
 * What {@link diffSnapshots} yields: the blocks that both have, one after the other, each with its ranges in between;
 * other blocks; devices; at last the summary.
 */
export type DiffEvent =
  | { readonly kind: "block"; readonly block: DiffBlock }
  | { readonly kind: "ranges"; readonly ranges: readonly DiffRange[] }
  | { readonly kind: "block-end"; readonly pages: PageChanges }
  | { readonly kind: "block-only"; readonly block: DiffBlockOnlyIn }
  | { readonly kind: "block-left-out"; readonly block: DiffBlockLeftOut }
  | DeviceDifference
  | { readonly kind: "summary"; readonly summary: DiffSummary };

/**
 * Compares the memory and the devices of two snapshots of one machine, whatever files they come from. Nothing is kept:
 * a guest of any size takes the memory of two windows of 1 MiB.
 *
 * @param a What was before.
 * @param b What is after. Both need their pages.
 * @throws UsageError while iterating when the two cannot be compared: another machine type or page size; what reading them
 *   throws; CancelledError.
 */
export async function* diffSnapshots(
  a: Snapshot,
  b: Snapshot,
  options: WalkOptions = {},
): AsyncGenerator<DiffEvent, void, undefined> {
  assertComparable(a, b);
  const counter = new DiffCounter();
  const pairs = pairBlocks(a, b);
  const pace = new WalkPace(
    "comparing",
    pairs.common.reduce((sum, pair) => sum + pair.commonPages * pair.a.pageSize, 0),
    options,
  );
  const scanners = new WindowScanners(2);
  for (const pair of pairs.common) yield* diffBlock(a, b, pair, pace, scanners, counter);
  for (const block of pairs.onlyInOne) {
    counter.blocksOnlyInOne += 1;
    yield { kind: "block-only", block };
  }
  for (const block of pairs.leftOut) yield { kind: "block-left-out", block };
  for (const difference of allDeviceDifferences(a, b)) {
    if (difference.kind === "field") counter.fields += 1;
    else if (difference.kind === "device-only") counter.devicesOnlyInOne += 1;
    yield difference;
  }
  yield { kind: "summary", summary: counter.summary() };
}

/**
 * Says whether two snapshots can be compared.
 *
 * @throws UsageError with what differs when they are of different machine types or page sizes. A stream that does not say
 *   its machine is of any.
 */
export function assertComparable(a: Snapshot, b: Snapshot): void {
  const [machineA, machineB] = [a.configuration.machine, b.configuration.machine];
  if (machineA !== "" && machineB !== "" && machineA !== machineB) {
    throw new UsageError("Snapshots of different machine types cannot be compared", {
      expected: machineA,
      actual: machineB,
    });
  }
  if (a.targetPageSize !== b.targetPageSize) {
    throw new UsageError("Snapshots of different page sizes cannot be compared", {
      expected: a.targetPageSize,
      actual: b.targetPageSize,
    });
  }
}

/** A block as both snapshots have it. */
export interface BlockPair {
  readonly a: SnapshotBlock;
  readonly b: SnapshotBlock;
  /** Pages that both have. */
  readonly commonPages: number;
}

/** Finds the blocks that are to be compared: those of the same name. */
export function pairBlocks(
  a: Snapshot,
  b: Snapshot,
): {
  readonly common: readonly BlockPair[];
  readonly onlyInOne: readonly DiffBlockOnlyIn[];
  readonly leftOut: readonly DiffBlockLeftOut[];
} {
  const common: BlockPair[] = [];
  const onlyInOne: DiffBlockOnlyIn[] = [];
  const leftOut: DiffBlockLeftOut[] = [];
  const inB = new Map(b.blocks.map((block) => [block.name, block]));
  for (const block of a.blocks) {
    const { name, usedLength } = block;
    const other = inB.get(name);
    inB.delete(name);
    if (other === undefined) onlyInOne.push({ name, usedLength, onlyIn: "a" });
    else if (block.leftOut && other.leftOut) leftOut.push({ name, usedLength });
    else if (block.leftOut || other.leftOut) {
      const onlyIn = block.leftOut ? "b" : "a";
      onlyInOne.push({ name, usedLength, onlyIn, leftOutByOther: true });
    } else {
      common.push({ a: block, b: other, commonPages: Math.min(block.pageCount, other.pageCount) });
    }
  }
  for (const { name, usedLength } of inB.values()) onlyInOne.push({ name, usedLength, onlyIn: "b" });
  return { common, onlyInOne, leftOut };
}

async function* diffBlock(
  a: Snapshot,
  b: Snapshot,
  pair: BlockPair,
  pace: WalkPace,
  scanners: WindowScanners,
  counter: DiffCounter,
): AsyncGenerator<DiffEvent, void, undefined> {
  const { name, pageSize, pageCount: pagesInA } = pair.a;
  const { pageCount: pagesInB } = pair.b;
  yield { kind: "block", block: { name, pageSize, pagesInA, pagesInB } };
  const joiner = new EqualJoiner();
  counter.startBlock();
  const before = { snapshot: a, block: pair.a };
  const after = { snapshot: b, block: pair.b };
  for await (const runs of comparePages(before, after, pair.commonPages, pace, scanners)) {
    counter.add(runs);
    const ranges = joiner.join(runs);
    if (ranges.length > 0) yield { kind: "ranges", ranges };
  }
  const rest = joiner.finish();
  if (pagesInA !== pagesInB) {
    const [start, end] = [pair.commonPages, Math.max(pagesInA, pagesInB)];
    rest.push({ start, end, change: pagesInA > pagesInB ? "only-in-a" : "only-in-b" });
    counter.addOnlyIn(pagesInA > pagesInB ? "a" : "b", end - start);
  }
  if (rest.length > 0) yield { kind: "ranges", ranges: rest };
  yield { kind: "block-end", pages: counter.block() };
  pace.endBlock(pair.commonPages * pageSize);
}

function* allDeviceDifferences(a: Snapshot, b: Snapshot): Generator<DeviceDifference, void, undefined> {
  const [uuidA, uuidB] = [a.configuration.uuid, b.configuration.uuid];
  if (uuidA !== undefined && uuidB !== undefined && formatUuid(uuidA) !== formatUuid(uuidB)) {
    const field = { section: "configuration", instance: 0, path: "uuid", type: "uuid" };
    yield { kind: "field", field: { ...field, a: formatUuid(uuidA), b: formatUuid(uuidB) } };
  }
  yield* diffDevices(a, b);
}

/** Makes one range of zero and other pages that are equal. */
class EqualJoiner {
  #last: DiffRange | undefined;

  join(runs: readonly PageChangeRun[]): DiffRange[] {
    const done: DiffRange[] = [];
    for (const { start, end, change: kind } of runs) {
      const change = kind === "zero" ? "equal" : kind;
      if (this.#last?.change === change) this.#last = { ...this.#last, end };
      else {
        if (this.#last !== undefined) done.push(this.#last);
        this.#last = { start, end, change };
      }
    }
    return done;
  }

  finish(): DiffRange[] {
    return this.#last === undefined ? [] : [this.#last];
  }
}

type Counts = { -readonly [Key in keyof PageChanges]: PageChanges[Key] };

/** Counts what the events say. */
class DiffCounter {
  blocksOnlyInOne = 0;
  devicesOnlyInOne = 0;
  fields = 0;
  readonly #total = noPages();
  #block = noPages();

  startBlock(): void {
    this.#block = noPages();
  }

  add(runs: readonly PageChangeRun[]): void {
    for (const { start, end, change } of runs) {
      this.#add(fieldOf(change), end - start);
      if (change === "zero") this.#add("equalZero", end - start);
    }
  }

  addOnlyIn(side: "a" | "b", pages: number): void {
    this.#add(side === "a" ? "onlyInA" : "onlyInB", pages);
  }

  block(): PageChanges {
    return this.#block;
  }

  summary(): DiffSummary {
    const { blocksOnlyInOne, devicesOnlyInOne, fields } = this;
    const { changed, becameZero, appeared, onlyInA, onlyInB } = this.#total;
    const differences =
      changed + becameZero + appeared + onlyInA + onlyInB + blocksOnlyInOne + devicesOnlyInOne + fields;
    return { same: differences === 0, pages: this.#total, blocksOnlyInOne, devicesOnlyInOne, fields };
  }

  #add(field: keyof PageChanges, pages: number): void {
    this.#block[field] += pages;
    this.#total[field] += pages;
  }
}

function noPages(): Counts {
  return { equal: 0, equalZero: 0, changed: 0, becameZero: 0, appeared: 0, onlyInA: 0, onlyInB: 0 };
}

function fieldOf(change: PageChange): keyof PageChanges {
  switch (change) {
    case "zero":
    case "equal":
      return "equal";
    case "changed":
      return "changed";
    case "became-zero":
      return "becameZero";
    case "appeared":
      return "appeared";
  }
}
