import { asError } from "../../../errors/as-error.js";
import { MachineError, UsageError } from "../../../errors/index.js";
import { type Clock, systemClock } from "../../clock.js";
import type {
  PostcopyConnection,
  PostcopyEvents,
  PostcopyListening,
  PostcopyMemory,
  PostcopyStart,
  PostcopyStatistics,
  PostcopyStatus,
} from "../../postcopy/postcopy-host.js";
import { sendRefusal } from "../return-path-answers.js";
import { BlocktimeCounter } from "./blocktime.js";
import { type ConnectionContext, ConnectionReader } from "./connection-reader.js";
import { MissingPages } from "./missing-pages.js";
import { PageRequests } from "./page-requests.js";

/** How to listen. */
export interface PostcopyListenerOptions {
  /** Processors of the guest: those that wait for pages have numbers below it. Default 1. */
  readonly processors?: number;
  readonly clock?: Pick<Clock, "now">;
}

/**
 * The destination of a postcopy migration from LISTEN on: reads the source's connections, places what comes, asks for what
 * the guest waits for, and goes on over another connection when one breaks. It needs nothing but what it is given, and may
 * be in any thread.
 */
export class PostcopyListener implements PostcopyListening {
  readonly ended: Promise<PostcopyStatistics>;
  readonly #start: PostcopyStart;
  readonly #memory: PostcopyMemory;
  readonly #events: PostcopyEvents;
  readonly #missing: MissingPages;
  readonly #blocktime: BlocktimeCounter;
  readonly #requests: PageRequests;
  #resolve: (statistics: PostcopyStatistics) => void = () => undefined;
  #reject: (error: Error) => void = () => undefined;
  #status: PostcopyStatus | undefined;
  #running = false;
  #failure: Error | undefined;
  #reader: ConnectionReader | undefined;
  /** Settles when the last connection is closed, with its last word. */
  #reading: Promise<void> = Promise.resolve();
  /** Of connections that have broken. */
  #earlier = { normal: 0, zero: 0, receivedBytes: 0 };

  private constructor(
    start: PostcopyStart,
    memory: PostcopyMemory,
    events: PostcopyEvents,
    { processors = 1, clock = systemClock }: PostcopyListenerOptions,
  ) {
    this.#start = start;
    this.#memory = memory;
    this.#events = events;
    this.#missing = new MissingPages(start);
    this.#blocktime = new BlocktimeCounter(processors, () => clock.now());
    this.#requests = new PageRequests(this.#missing, this.#blocktime);
    this.ended = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever began the migration hears of it in time, and may not wait yet.
    this.ended.catch(() => undefined);
  }

  /**
   * Makes what was not received missing, and reads the connection from then on.
   *
   * @throws FormatError when a part of a host page was received; what the memory throws. The source is told then, and the
   *   connection closed.
   */
  static async begin(
    start: PostcopyStart,
    memory: PostcopyMemory,
    connection: PostcopyConnection,
    events: PostcopyEvents = {},
    options: PostcopyListenerOptions = {},
  ): Promise<PostcopyListener> {
    let listener: PostcopyListener;
    try {
      listener = new PostcopyListener(start, memory, events, options);
      const requests = listener.#requests;
      await memory.begin(start.blocks, (block, address, processor = 0) => {
        requests.ask(block, address, processor);
      });
    } catch (error) {
      await sendRefusal(connection.returnPath);
      await Promise.all([connection.main.close(), connection.returnPath.close()]);
      throw error;
    }
    const { currentBlock, unread, offset } = start;
    listener.#connect(connection, { at: { currentBlock, unread, offset } });
    listener.#enter("postcopy-active");
    return listener;
  }

  /** `postcopy-active` while pages come. */
  get status(): PostcopyStatus {
    return this.#status ?? "postcopy-active";
  }

  async pong(value: number): Promise<void> {
    const reader = this.#reader;
    reader?.returnPath.pong(value);
    await reader?.returnPath.flushed();
    const failure = this.#failure ?? reader?.failure;
    if (failure !== undefined && !this.#running) throw failure;
  }

  running(): void {
    if (this.#failure !== undefined) throw this.#failure;
    this.#running = true;
  }

  pause(): void {
    this.#reader?.break(new MachineError("connection-closed", "The migration was told to pause"));
  }

  async recover(connection: PostcopyConnection): Promise<void> {
    if (this.#status !== "postcopy-paused") {
      await Promise.all([connection.main.close(), connection.returnPath.close()]);
      throw new UsageError("Only a migration that is paused can be recovered", {
        expected: "postcopy-paused",
        actual: this.status,
        hint: "break the old connection first",
      });
    }
    this.#enter("postcopy-recover");
    await new Promise<void>((resolve, reject) => {
      const onResume = (): void => {
        this.#requests.connect(reader.returnPath);
        this.#enter("postcopy-active");
        resolve();
      };
      const reader = this.#connect(connection, { onResume }, reject);
    });
  }

  abort(cause: Error): void {
    if (this.#status === "completed" || this.#status === "failed") return;
    const reader = this.#reader;
    const error = this.#running
      ? new MachineError(
          "migration-failed",
          "The migration was broken off after its guest had begun to run here, and the source cannot have it back",
          {},
          cause,
        )
      : cause;
    this.#fail(error);
    reader?.break(error);
  }

  statistics(): Promise<PostcopyStatistics> {
    return Promise.resolve(this.#statistics());
  }

  /** Begins to read; `onBroken` also hears how it ended when that comes too early. */
  #connect(
    connection: PostcopyConnection,
    context: Pick<ConnectionContext, "at" | "onResume">,
    onBroken?: (error: Error) => void,
  ): ConnectionReader {
    const reader = new ConnectionReader(connection, {
      start: this.#start,
      missing: this.#missing,
      requests: this.#requests,
      memory: this.#memory,
      refuses: () => !this.#running,
      ...context,
    });
    this.#reader = reader;
    if (context.onResume === undefined) this.#requests.connect(reader.returnPath);
    this.#reading = reader.run().then(
      () => this.#finish(reader),
      (error: unknown) => {
        const failure = asError(error);
        this.#broken(reader, failure);
        onBroken?.(failure);
      },
    );
    return reader;
  }

  async #finish(reader: ConnectionReader): Promise<void> {
    try {
      await this.#memory.end();
    } catch (error) {
      await reader.close();
      this.#fail(asError(error));
      return;
    }
    reader.returnPath.shut();
    // All is here: a source that cannot be told has nothing that is missing.
    await reader.returnPath.flushed();
    await reader.close();
    if (this.#status === "failed") return;
    this.#enter("completed");
    this.#resolve(this.#statistics());
  }

  /** A guest that runs here can only wait for another connection; one that does not is still the source's. */
  #broken(reader: ConnectionReader, error: Error): void {
    this.#requests.disconnect();
    const { pages, receivedBytes } = reader;
    this.#earlier = {
      normal: this.#earlier.normal + pages.normal,
      zero: this.#earlier.zero + pages.zero,
      receivedBytes: this.#earlier.receivedBytes + receivedBytes,
    };
    this.#reader = undefined;
    if (this.#status === "failed") return;
    if (this.#running) this.#enter("postcopy-paused", error);
    else this.#fail(error);
  }

  #fail(error: Error): void {
    this.#failure = error;
    this.#enter("failed", error);
    // Whoever hears of it may end the thread, or the process, and the source is to be told before.
    void this.#reading.then(() => this.#reject(error));
    // Who waits while the devices are loaded must not wait for ever. A guest that has run must not see zeros instead.
    if (!this.#running) void this.#release();
  }

  async #release(): Promise<void> {
    try {
      await this.#memory.end();
    } catch {
      // What failed before is what is told.
    }
  }

  #enter(status: PostcopyStatus, error?: Error): void {
    this.#status = status;
    this.#events.onStatus?.(status, error);
  }

  #statistics(): PostcopyStatistics {
    const pages = this.#reader?.pages;
    return {
      pages: {
        normal: this.#earlier.normal + (pages?.normal ?? 0),
        zero: this.#earlier.zero + (pages?.zero ?? 0),
      },
      requests: this.#requests.asked,
      receivedBytes: this.#earlier.receivedBytes + (this.#reader?.receivedBytes ?? 0),
      blocktime: this.#blocktime.counts,
    };
  }
}
