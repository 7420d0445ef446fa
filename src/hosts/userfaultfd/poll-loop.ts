import { MachineError } from "../../errors/index.js";
import { Errno, type UffdCalls } from "./system.js";

/** What a descriptor is waited for. */
export const PollFor = { READ: 0x001, WRITE: 0x004 } as const;

/** A descriptor that is waited for; nothing happens while `events` is 0. */
export interface PollWatch {
  readonly fd: number;
  /** {@link PollFor} */
  events: number;
  /** It is ready, or in a state that trying will tell. */
  onReady(): void;
}

/** What a loop tells. */
export interface PollLoopEvents {
  /** Called behind each wait, before those that are ready. */
  beforeTurn(): void;
  /** Gets what a watch throws; the loop has ended then. */
  onFailure(error: unknown): void;
}

/** `struct pollfd`: descriptor, wanted events, events that are there. */
const ENTRY_BYTES = 8;
/** How long the thread's own event loop may have to wait, if nothing comes: its timers are late by so much. */
const LONGEST_WAIT_MS = 20;
/** POLLERR, POLLHUP, POLLNVAL: they come without being asked for. */
const ALWAYS = 0x038;

/**
 * Waits for descriptors with `poll(2)` in each turn of this thread's event loop: for threads that have nothing else to do.
 *
 * Node's own loop can wait for sockets, but not for a userfaultfd; a thread of libuv's pool could, but all of those may be
 * waiting for a page themselves. One `poll` for everything also answers sooner than two threads that wake each other.
 */
export class PollLoop {
  readonly #calls: UffdCalls;
  readonly #watches = new Set<PollWatch>();
  #entries = new DataView(new ArrayBuffer(ENTRY_BYTES * 8));
  #turn: NodeJS.Immediate | undefined;
  readonly #events: PollLoopEvents;

  constructor(calls: UffdCalls, events: PollLoopEvents) {
    this.#calls = calls;
    this.#events = events;
  }

  add(watch: PollWatch): void {
    this.#watches.add(watch);
  }

  remove(watch: PollWatch): void {
    this.#watches.delete(watch);
  }

  start(): void {
    this.#turn ??= setImmediate(() => this.#run());
  }

  stop(): void {
    clearImmediate(this.#turn);
    this.#turn = undefined;
  }

  #run(): void {
    // What is ready may lead to an end.
    this.#turn = setImmediate(() => this.#run());
    try {
      this.#pollOnce();
    } catch (error) {
      this.stop();
      this.#events.onFailure(error);
    }
  }

  #pollOnce(): void {
    const watches = [...this.#watches].filter(({ events }) => events !== 0);
    if (watches.length * ENTRY_BYTES > this.#entries.byteLength) {
      this.#entries = new DataView(new ArrayBuffer(watches.length * ENTRY_BYTES * 2));
    }
    for (const [index, { fd, events }] of watches.entries()) {
      this.#entries.setInt32(index * ENTRY_BYTES, fd, true);
      this.#entries.setInt32(index * ENTRY_BYTES + 4, events, true);
    }
    const count = this.#calls.poll(new Uint8Array(this.#entries.buffer), watches.length, LONGEST_WAIT_MS);
    if (count < 0) {
      const errno = this.#calls.errno();
      if (errno === Errno.EINTR) return;
      throw new MachineError("io", `Waiting for pages failed: the system's error is number ${errno}`);
    }
    this.#events.beforeTurn();
    if (count === 0) return;
    for (const [index, watch] of watches.entries()) {
      const ready = this.#entries.getUint16(index * ENTRY_BYTES + 6, true);
      // One that was ready before it may have taken it away.
      if ((ready & (watch.events | ALWAYS)) !== 0 && this.#watches.has(watch)) watch.onReady();
    }
  }
}
