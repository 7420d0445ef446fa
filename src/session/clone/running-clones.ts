import fs from "node:fs";

import type { ProcessEnding, QemuProcess } from "./qemu-process.js";

/** A clone as it was started: plain data, ready for JSON. */
export interface CloneFacts {
  /** From 1 on: what `{n}` became. */
  readonly number: number;
  /** Of what was started, which also leads the clone's process group. */
  readonly pid: number;
  /** QMP socket of the clone, with nobody connected to it. */
  readonly qmpPath: string;
  /** What the QEMU says on standard output and error. */
  readonly logPath: string;
  readonly guest: "running" | "paused";
  /** From the start of the process until it waits to be loaded. */
  readonly processStartMs: number;
  /** From the request to load until the guest runs. */
  readonly restoreMs: number;
}

/** A clone with its process. */
export interface Clone {
  readonly facts: CloneFacts;
  readonly process: QemuProcess;
}

/** What was cloned, and how long it took. */
export interface ClonesFacts {
  readonly machine: string;
  readonly ramBytes: number;
  /** Of it, what the clones map from the snapshot. */
  readonly mappedBytes: number;
  /** Bytes of the stream that brought each of them the rest. */
  readonly residualBytes: number;
  /** Folder of sockets and logs, with what the clones said. */
  readonly runDirectory: string;
  /** Until the first process was started: snapshot and command line were checked. */
  readonly prepareMs: number;
  readonly totalTimeMs: number;
}

/** A clone that has ended. */
export interface EndedClone extends ProcessEnding {
  readonly number: number;
  /** What it said last; empty when it said nothing. */
  readonly words: string;
}

/** Clones that run, and belong to whoever started them. */
export class RunningClones {
  readonly facts: ClonesFacts;
  readonly #clones: readonly Clone[];

  /** Use cloneVms. */
  constructor(clones: readonly Clone[], facts: ClonesFacts) {
    this.#clones = clones;
    this.facts = facts;
  }

  /** Each of them, in order. */
  get clones(): readonly CloneFacts[] {
    return this.#clones.map(({ facts }) => facts);
  }

  /** Waits until one after the other has ended; yields each as it ends. */
  async *ended(): AsyncGenerator<EndedClone, void, undefined> {
    const left = new Map(
      this.#clones.map(({ facts: { number }, process }) => [
        number,
        process.exited.then((ending): EndedClone => ({ number, ...ending, words: process.lastWords() })),
      ]),
    );
    while (left.size > 0) {
      const one = await Promise.race(left.values());
      left.delete(one.number);
      yield one;
    }
  }

  /** Ends all of them, and removes their folder. What their disks were to hold is written first. */
  async stop(): Promise<void> {
    await Promise.all(this.#clones.map(({ process }) => process.quit()));
    fs.rmSync(this.facts.runDirectory, { recursive: true, force: true });
  }

  /** Lets go of them: they run on when this process ends. Their folder stays, with their sockets in it. */
  async release(): Promise<void> {
    await Promise.all(this.#clones.map(({ process }) => process.release()));
  }
}
