import { highHalf } from "./halves.js";

/** An unsigned 64-bit number as two halves. */
interface Halves {
  low: number;
  high: number;
}

const STRIPE_BYTES = 32;
const PRIME_1 = split(0x9e3779b185ebca87n);
const PRIME_2 = split(0xc2b2ae3d27d4eb4fn);
const PRIME_3 = split(0x165667b19e3779f9n);
const PRIME_4 = split(0x85ebca77c2b2ae63n);

/**
 * XXH64 (Yann Collet; doc/xxhash_spec.md of xxHash) without 64-bit integers: BigInt would be fifty times slower.
 *
 * One at a time: an instance holds the state.
 */
export class Xxh64 {
  readonly #lanes: readonly Halves[] = [
    { low: 0, high: 0 },
    { low: 0, high: 0 },
    { low: 0, high: 0 },
    { low: 0, high: 0 },
  ];
  readonly #hash: Halves = { low: 0, high: 0 };
  readonly #scratch: Halves = { low: 0, high: 0 };

  /**
   * Hashes `length` bytes at `view[at]`; `target[index]` gets the lower half, the one behind it the upper one.
   *
   * @param length A multiple of 32.
   */
  hash(view: DataView, at: number, length: number, seed: bigint, target: Uint32Array, index: number): void {
    const [first, second, third, fourth] = this.#lanes as readonly [Halves, Halves, Halves, Halves];
    const start = split(seed);
    setTo(first, start);
    add(first, PRIME_1);
    add(first, PRIME_2);
    setTo(second, start);
    add(second, PRIME_2);
    setTo(third, start);
    setTo(fourth, start);
    subtract(fourth, PRIME_1);
    const end = at + length;
    for (let stripe = at; stripe < end; stripe += STRIPE_BYTES) {
      mixIn(first, view, stripe);
      mixIn(second, view, stripe + 8);
      mixIn(third, view, stripe + 16);
      mixIn(fourth, view, stripe + 24);
    }
    this.#merge(length);
    target[index] = this.#hash.low;
    target[index + 1] = this.#hash.high;
  }

  /** One hash of the four lanes. Whole stripes have no tail that comes after it. */
  #merge(length: number): void {
    const [first, second, third, fourth] = this.#lanes as readonly [Halves, Halves, Halves, Halves];
    const hash = this.#hash;
    const scratch = this.#scratch;
    setTo(hash, first);
    rotate(hash, 1);
    for (const [lane, bits] of [
      [second, 7],
      [third, 12],
      [fourth, 18],
    ] as const) {
      setTo(scratch, lane);
      rotate(scratch, bits);
      add(hash, scratch);
    }
    for (const lane of this.#lanes) {
      setTo(scratch, lane);
      multiply(scratch, PRIME_2);
      rotate(scratch, 31);
      multiply(scratch, PRIME_1);
      hash.low = (hash.low ^ scratch.low) >>> 0;
      hash.high = (hash.high ^ scratch.high) >>> 0;
      multiply(hash, PRIME_1);
      add(hash, PRIME_4);
    }
    add(hash, { low: length, high: 0 });
    xorShifted(hash, 33);
    multiply(hash, PRIME_2);
    xorShifted(hash, 29);
    multiply(hash, PRIME_3);
    xorShifted(hash, 32);
  }
}

function split(value: bigint): Halves {
  return { low: Number(value & 0xffff_ffffn), high: Number((value >> 32n) & 0xffff_ffffn) };
}

/** A lane's round: adds the input times a prime, turns, and multiplies. */
function mixIn(lane: Halves, view: DataView, at: number): void {
  const inputLow = view.getUint32(at, true);
  const inputHigh = view.getUint32(at + 4, true);
  const low = lane.low + (Math.imul(inputLow, PRIME_2.low) >>> 0);
  const high =
    lane.high +
    highHalf(inputLow, PRIME_2.low) +
    Math.imul(inputLow, PRIME_2.high) +
    Math.imul(inputHigh, PRIME_2.low) +
    (low > 0xffff_ffff ? 1 : 0);
  lane.low = low >>> 0;
  lane.high = high >>> 0;
  rotate(lane, 31);
  multiply(lane, PRIME_1);
}

function setTo(target: Halves, value: Halves): void {
  target.low = value.low;
  target.high = value.high;
}

function add(target: Halves, value: Halves): void {
  const low = target.low + value.low;
  target.high = (target.high + value.high + (low > 0xffff_ffff ? 1 : 0)) >>> 0;
  target.low = low >>> 0;
}

function subtract(target: Halves, value: Halves): void {
  const low = target.low - value.low;
  target.high = (target.high - value.high - (low < 0 ? 1 : 0)) >>> 0;
  target.low = low >>> 0;
}

function multiply(target: Halves, factor: Halves): void {
  const { low, high } = target;
  target.high = (highHalf(low, factor.low) + Math.imul(low, factor.high) + Math.imul(high, factor.low)) >>> 0;
  target.low = Math.imul(low, factor.low) >>> 0;
}

/** To the left, by 1 to 31 bits. */
function rotate(target: Halves, bits: number): void {
  const { low, high } = target;
  target.low = ((low << bits) | (high >>> (32 - bits))) >>> 0;
  target.high = ((high << bits) | (low >>> (32 - bits))) >>> 0;
}

/** `target ^= target >> bits`, for 29, 32 and 33 bits. */
function xorShifted(target: Halves, bits: number): void {
  const { low, high } = target;
  if (bits >= 32) {
    target.low = (low ^ (high >>> (bits - 32))) >>> 0;
    return;
  }
  target.low = (low ^ ((low >>> bits) | (high << (32 - bits)))) >>> 0;
  target.high = (high ^ (high >>> bits)) >>> 0;
}
