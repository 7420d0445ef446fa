import type {
  PostcopyConnection,
  PostcopyEvents,
  PostcopyListening,
  PostcopyMemory,
  PostcopyStart,
} from "../../engine/index.js";
import { asError } from "../../errors/as-error.js";
import { assert, MachineError } from "../../errors/index.js";
import { complain } from "./complain.js";
import { localAddress } from "./local-address.js";
import { PollFor, PollLoop, type PollWatch } from "./poll-loop.js";
import { PolledChannel } from "./polled-channel.js";
import { type MemoryRegion, RegisteredMemory } from "./registered-memory.js";
import { SourceReturn } from "./source-return.js";
import { uffdCalls } from "./system.js";
import {
  errorFromData,
  errorToData,
  Phase,
  type ThreadCalls,
  type ThreadConnection,
  type ThreadData,
  type ThreadMessage,
  type ThreadRequest,
} from "./thread-messages.js";
import { Userfaultfd } from "./userfaultfd.js";

/** Makes a listener: the engine's. */
export type ListenInThread = (
  start: PostcopyStart,
  connection: PostcopyConnection,
  memory: PostcopyMemory,
  events: PostcopyEvents,
) => Promise<PostcopyListening>;

type Handlers = {
  [M in keyof ThreadCalls]: (
    ...argument: Parameters<ThreadCalls[M]>
  ) => ReturnType<ThreadCalls[M]> | Promise<ReturnType<ThreadCalls[M]>>;
};

/** Serves missing pages, in a thread of its own: everything in it goes on while the guest's thread waits for a page. */
export class PostcopyServer {
  readonly #calls = uffdCalls();
  readonly #data: ThreadData;
  readonly #phase: Int32Array;
  readonly #post: (message: ThreadMessage) => void;
  readonly #listen: ListenInThread;
  readonly #loop: PollLoop;
  readonly #uffd: Userfaultfd;
  #memory: RegisteredMemory | undefined;
  #listening: PostcopyListening | undefined;
  /** Waits for the second connection of {@link #listening}. */
  #takePreempt: ((source: PolledChannel) => void) | undefined;
  #sourceReturn: SourceReturn | undefined;
  #isPaused = false;
  #runs = false;
  /** Why the guest cannot go on; whoever waits for a page then ends the process. */
  #lost: Error | undefined;

  constructor(data: ThreadData, post: (message: ThreadMessage) => void, listen: ListenInThread) {
    this.#data = data;
    this.#phase = new Int32Array(data.phase);
    this.#post = post;
    this.#listen = listen;
    this.#uffd = Userfaultfd.ofDescriptor(data.uffd, data.servesKernel);
    this.#loop = new PollLoop(this.#calls, {
      beforeTurn: () => this.#lookAtPhase(),
      onFailure: (error) => this.fail(asError(error)),
    });
  }

  /** Does what is asked, and answers. */
  async take({ id, method, argument }: ThreadRequest): Promise<void> {
    this.#lookAtPhase();
    try {
      const handler = this.#handlers[method] as (argument: unknown) => unknown;
      this.#post({ kind: "answer", id, value: await handler(argument) });
    } catch (error) {
      this.#post({ kind: "answer", id, error: errorToData(error) });
    }
  }

  readonly #handlers: Handlers = {
    listen: ({ start, regions, connection }) => this.#begin(start, regions, connection),
    preempt: (connection) => {
      const channel = new PolledChannel(this.#calls, this.#loop, connection);
      if (this.#takePreempt === undefined) void channel.close();
      this.#takePreempt?.(channel);
    },
    pong: (value) => this.#started.pong(value),
    pause: () => this.#started.pause(),
    recover: (connection) => this.#started.recover(this.#connect(connection)),
    abort: (error) => this.#started.abort(errorFromData(error)),
    statistics: () => this.#started.statistics(),
    release: () => {
      this.#loop.stop();
      this.#memory?.end();
    },
  };

  async #begin(
    start: PostcopyStart,
    regions: readonly (MemoryRegion | undefined)[],
    connection: ThreadConnection,
  ): Promise<void> {
    const memory = new RegisteredMemory(this.#uffd, this.#calls, regions);
    this.#memory = memory;
    this.#watch(memory);
    this.#sourceReturn = this.#makeSourceReturn(start, connection);
    this.#loop.start();
    const listening = await this.#listen(start, this.#connect(connection), this.#guarded(memory), {
      onStatus: (status, error) => {
        // Before anything is let go.
        if (status === "failed") this.#lose(error ?? new MachineError("migration-failed", "It failed"));
        this.#isPaused = status === "postcopy-paused";
        if (this.#isPaused) memory.wakeAll();
        if (status === "postcopy-active") this.#sourceReturn?.end();
        this.#post({ kind: "status", status, ...(error === undefined ? {} : { error: errorToData(error) }) });
      },
    });
    this.#listening = listening;
    void listening.ended.then(
      (statistics) => {
        this.#loop.stop();
        this.#post({ kind: "completed", statistics });
      },
      (error: unknown) => this.fail(asError(error)),
    );
  }

  #makeSourceReturn({ preempt }: PostcopyStart, { main }: ThreadConnection): SourceReturn {
    return new SourceReturn({
      address: localAddress(this.#calls, main.fd),
      preempt,
      recover: async (source) => {
        const recovered = this.#started.recover(
          this.#connect({ main: source.main, preempt: source.preempt !== undefined }),
        );
        source.preempt?.then(this.#handlers.preempt, () => undefined);
        await recovered;
      },
    });
  }

  /** Memory that is not let go under a guest that lost pages of it, whatever a listener knows of the guest. */
  #guarded(memory: RegisteredMemory): PostcopyMemory {
    return {
      begin: (blocks, onMissing) => memory.begin(blocks, onMissing),
      place: (block, address, bytes, at, length) => memory.place(block, address, bytes, at, length),
      placeZero: (block, address, length) => memory.placeZero(block, address, length),
      end: () => {
        if (this.#lost === undefined || this.#isOver) memory.end();
      },
    };
  }

  get #started(): PostcopyListening {
    assert(this.#listening !== undefined, "the thread listens");
    return this.#listening;
  }

  #connect({ main, preempt }: ThreadConnection): PostcopyConnection {
    const channel = new PolledChannel(this.#calls, this.#loop, main);
    return {
      main: channel,
      returnPath: channel,
      ...(preempt ? { preempt: new Promise((resolve) => (this.#takePreempt = resolve)) } : {}),
    };
  }

  #watch(memory: RegisteredMemory): void {
    const faults: PollWatch = {
      fd: this.#data.uffd,
      events: PollFor.READ,
      onReady: () => this.#takeFaults(memory),
    };
    const eight = new Uint8Array(8);
    const messages: PollWatch = {
      fd: this.#data.wake,
      events: PollFor.READ,
      onReady: () => void this.#calls.read(this.#data.wake, eight, eight.length),
    };
    this.#loop.add(faults);
    this.#loop.add(messages);
  }

  #takeFaults(memory: RegisteredMemory): void {
    if (this.#lost !== undefined) {
      memory.takeFaults(() => this.#endProcess());
      return;
    }
    memory.takeFaults();
    // Who waits was woken when the migration paused, and waits again: the guest's thread cannot be asked then.
    if (this.#isPaused) this.#sourceReturn?.begin();
  }

  get #isOver(): boolean {
    return Atomics.load(this.#phase, 0) === Phase.OVER;
  }

  /** The guest can never have its pages: if it has not begun to run, it must not. */
  #lose(error: Error): void {
    this.#lost ??= error;
    Atomics.compareExchange(this.#phase, 0, Phase.LOADING, Phase.OVER);
  }

  /**
   * The guest can never have its pages. One that has not begun to run is given up: its memory is let go, and its thread is
   * told. One that ran may wait for a page already, so that its thread cannot be told: then the process ends, as QEMU does.
   */
  fail(error: Error): void {
    this.#lose(error);
    this.#post({ kind: "failed", error: errorToData(error) });
    if (this.#isOver) {
      this.#loop.stop();
      this.#memory?.end();
    } else {
      this.#memory?.wakeAll();
      this.#loop.start();
    }
  }

  /** That the guest runs is known here before anything that happens later: a message may come behind that. */
  #lookAtPhase(): void {
    if (this.#runs || this.#listening === undefined || Atomics.load(this.#phase, 0) !== Phase.RUNNING) return;
    this.#runs = true;
    this.#listening.running();
  }

  #endProcess(): void {
    const reason = this.#lost?.message ?? "";
    complain(`The guest waits for a page that will never come: ${reason}`);
    this.#calls.exitProcess(1);
  }
}
