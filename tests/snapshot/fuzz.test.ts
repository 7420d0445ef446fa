/**
 * Damaged files, made at random from sound ones. Whatever comes out, opening, describing and verifying either succeed or
 * throw a RamportError, and quickly. `RAMPORT_FUZZ_SEED` repeats a run, `RAMPORT_FUZZ_SECONDS` makes it longer.
 */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import { RamportError } from "../../src/errors/index.js";
import { openSnapshot, type SnapshotInfo, snapshotInfo, verifySnapshot } from "../../src/snapshot/index.js";
import { corpusPath, mappedRamCorpus } from "../support/corpus.js";
import { buildSnapshot, MemorySource } from "./build-snapshot.js";
import { Random } from "../support/random.js";
import { cpuTimeMs } from "../support/cpu-time.js";

const SECONDS = Number(process.env.RAMPORT_FUZZ_SECONDS ?? "5");
/** Fixed: a run that fails fails again. */
const SEED = Number(process.env.RAMPORT_FUZZ_SEED ?? "20261120") >>> 0;
/** Of processor time. */
const SLOWEST_MS = 1000;
const MOST_GROWTH_BYTES = 1 << 30;

interface Base {
  readonly bytes: Buffer;
  /** Where the format's own fields are; pages are most of a file and say nothing. */
  readonly fields: readonly { readonly start: number; readonly end: number }[];
}

const EXTREMES_64 = [
  0n,
  1n,
  4095n,
  4096n,
  2n ** 32n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n - 4096n,
  2n ** 63n,
  2n ** 64n - 1n,
];
const EXTREMES_32 = [0, 1, 2, 0x7f, 0xff, 0x100, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

async function prepare(bytes: Uint8Array): Promise<Base> {
  const info: SnapshotInfo = await snapshotInfo(new MemorySource(bytes));
  const fields = info.ram.blocks.flatMap(({ name, bitmapOffset = 0, pages }) => [
    { start: bitmapOffset - 37 - name.length, end: bitmapOffset },
    { start: bitmapOffset, end: bitmapOffset + Math.ceil((pages?.total ?? 0) / 8) },
  ]);
  const last = info.ram.blocks.at(-1)!;
  const tail = { start: last.pagesOffset! + last.usedLength, end: bytes.length };
  // Some parts several times: headers are short and matter most.
  fields.push({ start: 0, end: info.ram.blocks[0]!.bitmapOffset! }, tail, tail);
  return { bytes: Buffer.from(bytes), fields };
}

function mutate(base: Base, random: Random): Buffer {
  let bytes = Buffer.from(base.bytes);
  for (let count = 1 + random.below(3); count > 0; count--) bytes = mutateOnce(bytes, base, random);
  return bytes;
}

function mutateOnce(bytes: Buffer<ArrayBuffer>, base: Base, random: Random): Buffer<ArrayBuffer> {
  const field = random.pick(base.fields);
  const somewhere =
    random.below(8) === 0
      ? random.below(bytes.length)
      : field.start + random.below(Math.max(1, field.end - field.start));
  const at = Math.min(Math.max(0, somewhere), Math.max(0, bytes.length - 8));
  if (bytes.length < 128) return bytes;
  switch (random.below(8)) {
    case 0:
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
      return bytes;
    case 1:
      bytes[at] = random.below(256);
      return bytes;
    case 2:
      return bytes.subarray(0, at);
    case 3: {
      const count = random.pick([1, 2, 5, 8, 4096]);
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + count))]);
    }
    case 4: {
      const extra = Buffer.alloc(random.pick([1, 2, 5, 8, 4096]), random.below(256));
      return Buffer.concat([bytes.subarray(0, at), extra, bytes.subarray(at)]);
    }
    case 5:
      bytes.writeUInt32BE(random.pick(EXTREMES_32), at);
      return bytes;
    case 6:
      bytes.writeBigUInt64BE(random.pick(EXTREMES_64), at);
      return bytes;
    default: {
      // A piece from elsewhere: fields that are right, in the wrong place.
      const from = random.pick(base.fields).start;
      bytes.set(base.bytes.subarray(from, from + 1 + random.below(64)), Math.min(at, bytes.length - 64));
      return bytes;
    }
  }
}

async function readAll(source: MemorySource): Promise<void> {
  const snapshot = await openSnapshot(source, { tolerant: true });
  for (const block of snapshot.blocks) {
    if (block.leftOut || block.pageCount === 0) continue;
    const buffer = new Uint8Array(Math.min(16, block.pageCount) * block.pageSize);
    snapshot.readPages(block, 0, buffer);
    let runs = 0;
    for (const run of snapshot.presentRuns(block)) if (run.end > run.start && ++runs === 1000) break;
  }
  snapshot.close();
}

const OPERATIONS: readonly (readonly [string, (source: MemorySource) => Promise<unknown>])[] = [
  ["info", (source) => snapshotInfo(source)],
  ["verify", (source) => verifySnapshot(source)],
  ["read", readAll],
];

async function loadBases(): Promise<Base[]> {
  const built = await prepare(buildSnapshot().bytes);
  const small = mappedRamCorpus.filter((file) => file.bytes < 24e6 && file.streamOffset === 0);
  const real = await Promise.all(small.map((file) => prepare(readFileSync(corpusPath(file)))));
  // The built one costs least to copy: half of the runs.
  return [built, built, ...real.sort((a, b) => a.bytes.length - b.bytes.length).slice(0, 2)];
}

test(
  `random damage (seed ${SEED}, ${SECONDS} s)`,
  async () => {
    console.log(`fuzz: RAMPORT_FUZZ_SEED=${SEED}`);
    const bases = await loadBases();
    const random = new Random(SEED);
    const before = process.memoryUsage().rss;
    const deadline = performance.now() + SECONDS * 1000;
    let runs = 0;
    let peak = before;
    for (; performance.now() < deadline; runs++) {
      const source = new MemorySource(mutate(random.pick(bases), random));
      for (const [name, operation] of OPERATIONS) {
        const startMs = cpuTimeMs();
        const failure: unknown = await operation(source).then(
          () => undefined,
          (error: unknown) => error,
        );
        const elapsedMs = cpuTimeMs() - startMs;
        const where = `${name}, run ${runs} of seed ${SEED}`;
        if (failure !== undefined && !(failure instanceof RamportError)) {
          throw new Error(`Something else than a RamportError came out (${where})`, { cause: failure });
        }
        expect(elapsedMs, `${where} took too long`).toBeLessThan(SLOWEST_MS);
      }
      if (runs % 64 === 0) peak = Math.max(peak, process.memoryUsage().rss);
    }
    expect(runs).toBeGreaterThan(20);
    expect(peak - before).toBeLessThan(MOST_GROWTH_BYTES);
  },
  SECONDS * 1000 + 30_000,
);
