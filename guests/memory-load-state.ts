/**
 * Where the program of `memory-load.ts` has what it knows.
 *
 * @module
 */

import { mem } from "./assembler.js";

/** Low memory that nothing else uses; ebp points there all the time. */
export const STATE = 0x7000;

export const ID = mem("ebp", 0);
export const PASS = mem("ebp", 4);
/** Not 0 from the first mismatch on; then its address. */
export const BAD = mem("ebp", 8);
export const BAD_LOW = mem("ebp", 12);
export const BAD_HIGH = mem("ebp", 16);
/** The generation that the sweep writes. */
export const SWEEP = mem("ebp", 20);
/** Steps done of the sweep. */
export const STEP = mem("ebp", 24);
/** State of the generator. */
export const X = mem("ebp", 28);
/** Steps to do of the pass. */
export const LEFT = mem("ebp", 32);
/** Steps done of a walk over all pages, and pages that it met. */
export const WALKED = mem("ebp", 36);
export const MET = mem("ebp", 40);
/** Time stamp counter at the pass's two ends. */
export const BEGIN_LOW = mem("ebp", 44);
export const BEGIN_HIGH = mem("ebp", 48);
export const END_LOW = mem("ebp", 52);
export const END_HIGH = mem("ebp", 56);

/** Counts of first accesses by their duration; `memory-load-report.ts` says what an entry stands for. */
export const HISTOGRAM = 0x3_0000;
export const HISTOGRAM_WORDS = 1024;
