import {
  type ByteSource,
  canDetachConnection,
  detachConnection,
  type DetachedConnection,
} from "../../channels/index.js";
import type {
  PostcopyConnection,
  PostcopyEvents,
  PostcopyHost,
  PostcopyListening,
  PostcopyStart,
  PostcopyStatistics,
} from "../../engine/index.js";
import { MachineError } from "../../errors/index.js";
import { CANNOT_RUN } from "./system.js";
import { PostcopyThread } from "./postcopy-thread.js";
import type { MemoryRegion } from "./registered-memory.js";
import { errorFromData, errorToData, type ThreadConnection } from "./thread-messages.js";

/** What a host with memory in this process tells of itself. */
export interface PostcopyMachine {
  /** Bytes, one for each of the host's blocks. */
  readonly hostPageSizes: readonly number[];
  /** Where the blocks are, in the host's order; undefined for memory that is not only this process's. */
  regions(): readonly (MemoryRegion | undefined)[];
  /** Keeps the guest from running while its pages cannot come, or lets it go on. */
  hold(held: boolean): void;
  /** The guest lost pages for good: it is to stop and must not run again. */
  lose(error: Error): Promise<void>;
}

/**
 * Runs a guest of this thread while pages are missing: another thread serves them by userfaultfd. A page that the guest
 * touches blocks this thread until it has come, with everything else that it does.
 *
 * Where a migration fails for good while this thread is blocked, nothing in it can be told: the process says why and ends,
 * with status 1.
 */
export class ThreadedPostcopy implements PostcopyHost {
  readonly #machine: PostcopyMachine;
  #prepared: PostcopyThread | undefined;
  readonly #threads = new Set<PostcopyThread>();

  constructor(machine: PostcopyMachine) {
    this.#machine = machine;
  }

  get hostPageSizes(): readonly number[] {
    return this.#machine.hostPageSizes;
  }

  /**
   * Postcopy may follow: starts what takes time.
   *
   * @throws MachineError `not-capable` where there is no userfaultfd, or the migration comes over no plain socket.
   */
  prepare(main: ByteSource): void {
    if (!canDetachConnection(main)) throw noPlainSocket();
    this.#machine.regions();
    if (this.#prepared?.isAlive === true) return;
    this.#prepared = new PostcopyThread();
    this.#threads.add(this.#prepared);
  }

  async listen(
    start: PostcopyStart,
    connection: PostcopyConnection,
    events: PostcopyEvents,
  ): Promise<PostcopyListening> {
    this.prepare(connection.main);
    const thread = this.#prepared;
    if (thread === undefined) throw new MachineError("not-capable", CANNOT_RUN);
    this.#prepared = undefined;
    const listening = new ThreadListening(thread, this.#machine, events, () => this.#threads.delete(thread));
    try {
      await listening.begin(start, this.#machine.regions(), connection);
    } catch (error) {
      await thread.close();
      this.#threads.delete(thread);
      throw error;
    }
    return listening;
  }

  /** There will be no postcopy: ends what was prepared for it. */
  async unprepare(): Promise<void> {
    const thread = this.#prepared;
    if (thread === undefined) return;
    this.#prepared = undefined;
    this.#threads.delete(thread);
    await thread.close();
  }

  /** Ends what goes on; the guest's memory is let go, and nobody may look at it any more. */
  async close(): Promise<void> {
    this.#prepared = undefined;
    const threads = [...this.#threads];
    this.#threads.clear();
    await Promise.all(threads.map((thread) => thread.close()));
  }
}

/** A listener in another thread. */
class ThreadListening implements PostcopyListening {
  readonly ended: Promise<PostcopyStatistics>;
  readonly #thread: PostcopyThread;
  readonly #machine: PostcopyMachine;
  readonly #closed: () => void;
  #resolve: (statistics: PostcopyStatistics) => void = () => undefined;
  #reject: (error: Error) => void = () => undefined;
  #failure: Error | undefined;
  #runs = false;
  #statistics: PostcopyStatistics | undefined;

  constructor(thread: PostcopyThread, machine: PostcopyMachine, events: PostcopyEvents, closed: () => void) {
    this.#thread = thread;
    this.#machine = machine;
    this.#closed = closed;
    this.ended = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.ended.catch(() => undefined);
    thread.listenTo((message) => {
      if (message.kind === "completed") void this.#complete(message.statistics);
      else if (message.kind === "failed") void this.#fail(errorFromData(message.error));
      else {
        const { status, error } = message;
        // One that failed for good never goes on.
        if (status !== "failed") machine.hold(status === "postcopy-paused" || status === "postcopy-recover");
        events.onStatus?.(status, error === undefined ? undefined : errorFromData(error));
      }
    });
  }

  async begin(
    start: PostcopyStart,
    regions: readonly (MemoryRegion | undefined)[],
    connection: PostcopyConnection,
  ): Promise<void> {
    await this.#thread.call("listen", {
      // A view would take all that it is a view of along.
      start: { ...start, unread: start.unread.slice() },
      regions,
      connection: await handOver(connection),
    });
    // Once the guest runs, this thread may be blocked, and nobody could take the second connection.
    await Promise.race([this.#preempt(connection), this.ended]);
  }

  async pong(value: number): Promise<void> {
    await this.#thread.call("pong", value);
  }

  /** @throws What the migration failed for: then the guest must not run. */
  running(): void {
    if (!this.#thread.beginRunning()) {
      throw (
        this.#failure ?? new MachineError("migration-failed", "The migration broke off before the guest ran")
      );
    }
    this.#runs = true;
  }

  pause(): void {
    void this.#thread.call("pause").catch(() => undefined);
  }

  async recover(connection: PostcopyConnection): Promise<void> {
    const recovered = this.#thread.call("recover", await handOver(connection));
    await Promise.all([recovered, Promise.race([this.#preempt(connection), recovered])]);
  }

  abort(error: Error): void {
    // It would wait for a page of which nobody could tell it that it never comes.
    this.#machine.hold(true);
    void this.#thread.call("abort", errorToData(error)).catch(() => undefined);
  }

  async statistics(): Promise<PostcopyStatistics> {
    return this.#statistics ?? this.#thread.call("statistics");
  }

  async #preempt({ preempt }: PostcopyConnection): Promise<void> {
    if (preempt === undefined) return;
    await this.#thread.call("preempt", await detached(await preempt));
  }

  async #complete(statistics: PostcopyStatistics): Promise<void> {
    this.#statistics = statistics;
    await this.#thread.close();
    this.#closed();
    this.#resolve(statistics);
  }

  async #fail(error: Error): Promise<void> {
    if (this.#failure !== undefined || this.#statistics !== undefined) return;
    this.#failure = error;
    if (this.#runs) {
      await this.#machine.lose(error);
      await this.#thread.call("release").catch(() => undefined);
    }
    await this.#thread.close();
    this.#closed();
    this.#reject(error);
  }
}

async function handOver({ main, preempt }: PostcopyConnection): Promise<ThreadConnection> {
  return { main: await detached(main), preempt: preempt !== undefined };
}

async function detached(channel: PostcopyConnection["main"]): Promise<DetachedConnection> {
  const connection = await detachConnection(channel);
  if (connection !== undefined) return connection;
  throw noPlainSocket();
}

function noPlainSocket(): MachineError {
  return new MachineError("not-capable", `${CANNOT_RUN}: the migration does not come over a plain socket`, {
    hint: "use a unix or TCP socket without TLS",
  });
}
