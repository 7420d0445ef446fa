import type { Clock } from "../../src/engine/clock.js";
import type { Random } from "../support/random.js";

interface TimedEvent {
  readonly atMs: number;
  /** Drawn from the seed: which of several simultaneous events comes first. */
  readonly lot: number;
  readonly number: number;
  readonly what: string;
  readonly run: () => void;
}

/** Something that waits without a time: shown when nothing is left that could wake it. */
interface Waiter {
  readonly what: string;
}

const LOTS = 1 << 30;
/** A turn of the event loop takes a moment, or a loop of nothing but turns would stop the clock. */
const SHORTEST_TURN_MS = 0.005;
const TURN_SPREAD = 64;

/**
 * Time that passes only when everything waits. All that is to happen stands in one queue; {@link run} takes the next
 * event once no promise is left to be settled, so that the order depends on the seed alone.
 */
export class VirtualClock implements Clock {
  /** What happened, for the log of one seed; undefined when nobody reads it. */
  readonly log: string[] | undefined;
  readonly #random: Random;
  readonly #queue = new EventQueue();
  readonly #waiting = new Set<Waiter>();
  #nowMs = 0;
  #events = 0;

  constructor(random: Random, log?: string[]) {
    this.#random = random;
    this.log = log;
  }

  now(): number {
    return this.#nowMs;
  }

  /** Events that have happened. */
  get eventCount(): number {
    return this.#events;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        signal?.removeEventListener("abort", wake);
        resolve();
      };
      this.after(ms, "end of a sleep", wake);
      signal?.addEventListener("abort", wake);
    });
  }

  turn(): Promise<void> {
    const ms = SHORTEST_TURN_MS * (1 + this.#random.below(TURN_SPREAD) / 8);
    return new Promise((resolve) => this.after(ms, "turn", resolve));
  }

  /** Lets something happen later. */
  after(ms: number, what: string, run: () => void): void {
    const lot = this.#random.below(LOTS);
    this.#queue.add({
      atMs: this.#nowMs + Math.max(0, ms),
      lot,
      number: this.#queue.added,
      what,
      run,
    });
  }

  /** The whole process stands still for so long, as in a synchronous write to a slow device. */
  block(ms: number): void {
    this.#nowMs += ms;
  }

  /** Says that something waits, until the function that it returns is called. */
  waits(what: string): () => void {
    const waiter = { what };
    this.#waiting.add(waiter);
    return () => void this.#waiting.delete(waiter);
  }

  note(what: () => string): void {
    this.log?.push(`${this.#nowMs.toFixed(3).padStart(10)} ${what()}`);
  }

  /**
   * Lets everything happen until `work` has settled.
   *
   * @param limits Virtual milliseconds and events; past them, or when nothing is left to happen, it throws an Error that
   *   says what waits.
   */
  async run<T>(work: Promise<T>, limits: { readonly untilMs: number; readonly events: number }): Promise<T> {
    let settled = false;
    const isSettled = (): boolean => settled;
    const settle = (): void => void (settled = true);
    work.then(settle, settle);
    await microtasksDrained();
    while (!isSettled()) {
      const next = this.#queue.next();
      if (next === undefined) {
        // A real turn of the event loop, in case that something does not go by this clock.
        await new Promise((resolve) => setImmediate(resolve));
        await microtasksDrained();
        if (this.#queue.isEmpty && !isSettled()) throw this.#stuck("Deadlock: nothing is left to happen");
        continue;
      }
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      if (this.#nowMs > limits.untilMs) throw this.#stuck("It takes too long");
      if (++this.#events > limits.events) throw this.#stuck("Too much happens");
      next.run();
      await microtasksDrained();
    }
    return work;
  }

  #stuck(why: string): Error {
    const waiting = [...this.#waiting].map(({ what }) => what);
    return new Error(
      `${why} at ${this.#nowMs.toFixed(3)} ms; waiting: ${waiting.length === 0 ? "nobody" : waiting.join(", ")}`,
    );
  }
}

/**
 * Resolves when no promise is left to be settled: Node calls what `nextTick` is given only after the whole microtask
 * queue. No timer and no real input can come in between.
 */
export function microtasksDrained(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}

/** A binary heap by time, then by lot. */
class EventQueue {
  added = 0;
  readonly #heap: TimedEvent[] = [];

  get isEmpty(): boolean {
    return this.#heap.length === 0;
  }

  add(event: TimedEvent): void {
    this.added += 1;
    const heap = this.#heap;
    let index = heap.push(event) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!isBefore(event, heap[parent]!)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = event;
  }

  next(): TimedEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let index = 0;
    while (true) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child += 1;
      if (!isBefore(heap[child]!, last)) break;
      heap[index] = heap[child]!;
      index = child;
    }
    heap[index] = last;
    return first;
  }
}

function isBefore(a: TimedEvent, b: TimedEvent): boolean {
  if (a.atMs !== b.atMs) return a.atMs < b.atMs;
  if (a.lot !== b.lot) return a.lot < b.lot;
  return a.number < b.number;
}
