/**
 * Reads what the guest of `memory-load.ts` says beside its passes.
 *
 * @module
 */

/** What a timed pass took, in ticks of the time stamp counter. */
export interface PassTiming {
  readonly pass: number;
  readonly ticks: number;
  /** The counter at its end. */
  readonly toTicks: number;
  /** First accesses to its pages by their duration, shortest first. */
  readonly accesses: readonly AccessCount[];
}

/** So many accesses took about so long. */
export interface AccessCount {
  readonly ticks: number;
  readonly count: number;
}

/** A walk over all memory without a mismatch. */
export interface Verification {
  /** Pages that were checked. */
  readonly pages: number;
  /** The last pass before it. */
  readonly pass: number;
}

const HEX8 = "([0-9A-F]{8})";
const HEX16 = "([0-9A-F]{16})";
const TIMED = new RegExp(`timed=${HEX8} from=${HEX16} to=${HEX16}((?: [0-9A-F]{8}:[0-9A-F]{8})*)$`);
const VERIFIED = new RegExp(`verified=${HEX8} pass=${HEX8} ok$`);
/** Steps of the histogram in each power of two. */
const STEPS = 16;

/** The complete timings in an output. */
export function parseTimings(text: string): PassTiming[] {
  return linesOf(text).flatMap((line) => {
    const [, pass, from, to, entries] = TIMED.exec(line) ?? [];
    if (pass === undefined) return [];
    return [
      {
        pass: Number.parseInt(pass, 16),
        ticks: Number(BigInt(`0x${to}`) - BigInt(`0x${from}`)),
        toTicks: Number(BigInt(`0x${to}`)),
        accesses: (entries ?? "").split(" ").filter(Boolean).map(parseEntry),
      },
    ];
  });
}

/** The complete verifications in an output. */
export function parseVerifications(text: string): Verification[] {
  return linesOf(text).flatMap((line) => {
    const [, pages, pass] = VERIFIED.exec(line) ?? [];
    if (pages === undefined || pass === undefined) return [];
    return [{ pages: Number.parseInt(pages, 16), pass: Number.parseInt(pass, 16) }];
  });
}

/** The whole lines; what follows the last line break may be cut. */
function linesOf(text: string): string[] {
  return text.split("\n").slice(0, -1);
}

/** Entry 16 x n + m counts what took about m x 2^n ticks, m from 16 to 31. */
function parseEntry(text: string): AccessCount {
  const [entry = NaN, count = NaN] = text.split(":").map((part) => Number.parseInt(part, 16));
  const exponent = Math.floor(entry / STEPS) - 1;
  return { ticks: (entry - STEPS * exponent + 0.5) * 2 ** exponent, count };
}
