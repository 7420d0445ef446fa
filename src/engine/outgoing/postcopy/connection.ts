import type { ByteSink, ByteSource } from "../../../channels/index.js";
import { asError } from "../../../errors/as-error.js";
import { FormatError, MachineError } from "../../../errors/index.js";
import { PageBitmap } from "../../../memory/index.js";
import {
  ByteReader,
  decodePageRequest,
  decodeReceivedBitmap,
  decodeReceivedBitmapName,
  decodeResumeAck,
  decodeReturnPathRecord,
  type PageRequest,
  ReturnPathMessage,
  type ReturnPathRecord,
} from "../../../wire/index.js";
import { type Clock, systemClock } from "../../clock.js";
import { PostcopyPing } from "../../postcopy/pings.js";
import { StreamInput } from "../../stream-input.js";
import { OWN_ERROR } from "../return-path.js";
import type { PageSource } from "./page-source.js";

/** The two directions of the main connection. */
export interface PostcopyChannels {
  readonly main: ByteSink;
  /** What the destination says; usually the same socket. */
  readonly returnPath: ByteSource;
}

/** The second connection of postcopy-preempt. */
export interface PreemptChannel {
  readonly connect: () => Promise<ByteSink>;
  /**
   * Whether the destination wants it at once, as QEMU 7.1 and 7.2 do: they begin with nothing before they have both. Newer
   * ones should have taken the main one before. Where it is not given, one that says nothing for a second counts as old.
   */
  readonly early?: boolean;
}

/** How long a destination may take to show that it does not wait for the preempt channel. */
const PATIENCE_MS = 1000;

/** Takes a page request; `offset` is where on the return path it stands. It may throw: that ends the connection. */
export type PageRequestListener = (request: PageRequest, offset: number) => void;

/** Values of PONG that are waited for; a destination that says others is not listened to for ever. */
const MOST_PONGS = 64;

/** A destination that closes says why at the same time, if it does. */
const LAST_WORD_MS = 1000;

/** What channels fail with when they break. */
const BROKEN_CODES: ReadonlySet<string> = new Set(["connection-closed", "io", "timeout"]);

interface Waiter {
  readonly isMet: () => boolean;
  readonly resolve: () => void;
  readonly reject: (reason: Error) => void;
}

/**
 * One connection of a postcopy migration, from the source's side: its channels, and what the destination says, which is
 * read all the time, beside whatever is written. When one channel fails, all of them are closed and everything that waits
 * for a word of the destination fails with the first reason.
 */
export class PostcopyConnection {
  readonly main: ByteSink;
  /** Called when the connection has failed or the destination has said that it is done. */
  onEnd: (() => void) | undefined;
  readonly #returnPath: ByteSource;
  #preempt: ByteSink | undefined;
  #isEarlyPreempt: boolean | undefined;
  readonly #pages: Pick<PageSource, "blocks" | "targetPageSize">;
  readonly #onRequest: PageRequestListener;
  readonly #clock: Pick<Clock, "sleep">;
  readonly #pongs = new Set<number>();
  readonly #bitmaps = new Map<string, PageBitmap>();
  readonly #waiters = new Set<Waiter>();
  /** Ends with the destination's last word; never fails. */
  readonly #listening: Promise<void>;
  #resumeAgreed = false;
  #passesRequestsOver = false;
  #shut = false;
  #isLoaded = false;
  #hasRefused = false;
  #failure: Error | undefined;
  #isBroken = false;

  /** Begins to read the return path. */
  constructor(
    { main, returnPath }: PostcopyChannels,
    pages: Pick<PageSource, "blocks" | "targetPageSize">,
    onRequest: PageRequestListener,
    clock: Pick<Clock, "sleep"> = systemClock,
  ) {
    this.main = main;
    this.#returnPath = returnPath;
    this.#pages = pages;
    this.#onRequest = onRequest;
    this.#clock = clock;
    this.#listening = this.#listen().catch((error: unknown) => this.#break(brokenOff(error)));
  }

  /** Carries pages that were asked for, and only those; undefined without postcopy-preempt, or before it was opened. */
  get preempt(): ByteSink | undefined {
    return this.#preempt;
  }

  /** Whether the destination wanted the preempt channel at once: see {@link PreemptChannel}; undefined if nobody knows. */
  get isEarlyPreempt(): boolean | undefined {
    return this.#isEarlyPreempt;
  }

  /**
   * Opens the preempt channel.
   *
   * @param isTaken Settles when the destination has taken the main channel for what it is: only the order tells it which
   *   one is which.
   */
  async openPreempt({ connect, early }: PreemptChannel, isTaken: Promise<void>): Promise<void> {
    this.#isEarlyPreempt = early;
    if (early !== true) await this.#waitForPreempt(isTaken, early === undefined);
    this.throwFailure();
    try {
      this.#preempt = await connect();
    } catch (error) {
      this.#break(error);
    }
    // It may have failed meanwhile, and its channels been closed.
    if (this.#failure !== undefined) this.close();
    this.throwFailure();
  }

  async #waitForPreempt(isTaken: Promise<void>, hasPatience: boolean): Promise<void> {
    const patience = new AbortController();
    const enough = this.#clock.sleep(PATIENCE_MS, patience.signal).then(() => false);
    const answered = isTaken.then(() => true);
    // It may fail later: then whoever waits for more says so.
    answered.catch(() => undefined);
    const isAnswered = await (hasPatience ? Promise.race([answered, enough]) : answered);
    patience.abort();
    if (isAnswered) this.#isEarlyPreempt = false;
  }

  /** Why the connection failed; undefined while it has not. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Whether it failed because a channel broke: the destination, if it runs the guest, waits for another connection. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Whether the destination said that it has everything (SHUT). */
  get isShut(): boolean {
    return this.#shut;
  }

  /**
   * Whether the destination said that it failed (SHUT with an error) without having said before that it loads no more and is
   * about to run (PONG 0x42). Over the first connection of a migration that says for certain that it never runs the guest:
   * it answers in order, and runs nothing after its last word.
   */
  get hasRefused(): boolean {
    return this.#hasRefused;
  }

  /** Throws what the connection failed with. */
  throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Writes to the main channel; `bytes` may be reused afterwards. */
  async write(bytes: Uint8Array): Promise<void> {
    await this.writeTo(this.main, bytes);
  }

  /** Writes to one of the connection's channels. A failure is the connection's, and its reason is thrown. */
  async writeTo(channel: ByteSink, bytes: Uint8Array): Promise<void> {
    this.throwFailure();
    if (bytes.length === 0) return;
    try {
      await channel.write(bytes);
    } catch (error) {
      await this.breakOff(error);
    }
    this.throwFailure();
  }

  /** Closes all channels because one failed in somebody else's hands: what the destination says of that comes first. */
  async breakOff(error: unknown): Promise<void> {
    await this.#lastWord();
    this.#break(error);
  }

  /** Waits for the PONG of this value, which may have come already. */
  async pong(value: number): Promise<void> {
    await this.#until(() => this.#pongs.has(value));
  }

  hasPong(value: number): boolean {
    return this.#pongs.has(value);
  }

  /** Waits for the received bitmap of a block, which was asked for: a bit for each target page. */
  async receivedBitmap(block: string): Promise<PageBitmap> {
    await this.#until(() => this.#bitmaps.has(block));
    const bitmap = this.#bitmaps.get(block) ?? new PageBitmap(0);
    this.#bitmaps.delete(block);
    return bitmap;
  }

  /**
   * Passes page requests over until the destination agrees to go on. Then it asks again for all that it waits for; before, a
   * thread of it may still ask as if the connection were the old one, and leave out the block that it named there.
   */
  passRequestsOver(): void {
    this.#passesRequestsOver = true;
  }

  /** Waits until the destination agrees to go on (RESUME_ACK). */
  async resumeAck(): Promise<void> {
    await this.#until(() => this.#resumeAgreed);
  }

  /** Waits until the destination says that all is well there. */
  async shut(): Promise<void> {
    await this.#until(() => this.#shut);
  }

  /** Closes all channels, for a reason: the first one stays. */
  fail(reason: Error): void {
    if (this.#failure === undefined && !this.#shut) {
      this.#failure = reason;
      for (const waiter of this.#waiters) waiter.reject(reason);
      this.#waiters.clear();
    }
    this.close();
    this.onEnd?.();
  }

  close(): void {
    for (const channel of [this.main, this.#returnPath, this.#preempt]) {
      void channel?.close().catch(() => undefined);
    }
  }

  #break(reason: unknown): void {
    const isFirst = this.#failure === undefined;
    this.fail(asError(reason));
    if (isFirst) this.#isBroken = reason instanceof MachineError && BROKEN_CODES.has(reason.code);
  }

  /** What the destination said before it closed tells more than that it did. */
  async #lastWord(): Promise<void> {
    const silence = new AbortController();
    await Promise.race([this.#listening, this.#clock.sleep(LAST_WORD_MS, silence.signal)]);
    silence.abort();
  }

  #until(isMet: () => boolean): Promise<void> {
    if (isMet()) return Promise.resolve();
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#shut) return Promise.reject(tooEarly());
    return new Promise((resolve, reject) => {
      this.#waiters.add({ isMet, resolve, reject });
    });
  }

  async #listen(): Promise<void> {
    const input = new StreamInput(this.#returnPath);
    while (!this.#shut) {
      if ((await input.peek()) === undefined) throw closedByDestination();
      const offset = input.offset;
      const record = await input.parse(decodeReturnPathRecord);
      if (record.type === ReturnPathMessage.RECV_BITMAP) await this.#takeBitmap(record, input, offset);
      else this.#take(record, offset);
      for (const waiter of this.#waiters) {
        if (!waiter.isMet()) continue;
        this.#waiters.delete(waiter);
        waiter.resolve();
      }
    }
    // Nothing is read after its last word: what somebody still waits for never comes.
    for (const waiter of this.#waiters) waiter.reject(tooEarly());
    this.#waiters.clear();
    this.onEnd?.();
  }

  #take({ type, data }: ReturnPathRecord, offset: number): void {
    const reader = new ByteReader(data, offset);
    if (type === ReturnPathMessage.REQ_PAGES || type === ReturnPathMessage.REQ_PAGES_ID) {
      const request = decodePageRequest(type, reader);
      if (!this.#passesRequestsOver) this.#onRequest(request, offset);
    } else if (type === ReturnPathMessage.PONG) {
      this.#takePong(reader.u32());
    } else if (type === ReturnPathMessage.RESUME_ACK) {
      decodeResumeAck(reader);
      this.#resumeAgreed = true;
      this.#passesRequestsOver = false;
    } else if (type === ReturnPathMessage.SHUT) this.#takeShut(reader.u32());
  }

  #takePong(value: number): void {
    if (value === PostcopyPing.PACKAGE_LOADED) this.#isLoaded = true;
    if (this.#pongs.size < MOST_PONGS) this.#pongs.add(value);
  }

  #takeShut(result: number): void {
    if (result !== 0) {
      this.#hasRefused = !this.#isLoaded;
      const data = { actual: result, hint: OWN_ERROR };
      throw new MachineError("migration-failed", "The destination says that loading failed", data);
    }
    this.#shut = true;
  }

  async #takeBitmap({ data }: ReturnPathRecord, input: StreamInput, offset: number): Promise<void> {
    const name = decodeReceivedBitmapName(new ByteReader(data, offset));
    const block = this.#pages.blocks.find((candidate) => candidate.name === name);
    if (block === undefined) {
      throw new MachineError("migration-failed", "The destination reports an unknown RAM block", {
        offset,
        block: name,
      });
    }
    const pageCount = block.usedLength / this.#pages.targetPageSize;
    const bytes = await input.parse((reader) => decodeReceivedBitmap(reader, name, pageCount));
    this.#bitmaps.set(name, PageBitmap.fromBytes(pageCount, bytes));
  }
}

/** For a destination that says it has everything while something is still to be sent. */
export function tooEarly(): MachineError {
  return new MachineError(
    "migration-failed",
    "The destination says that it has loaded what was not sent yet",
  );
}

/** A connection that breaks inside a message has broken, and is no bad message. */
function brokenOff(error: unknown): Error {
  const isCutOff = error instanceof FormatError && error.code === "truncated";
  return isCutOff ? closedByDestination(error) : asError(error);
}

function closedByDestination(cause?: unknown): MachineError {
  const message = "The destination closed the connection before it had all pages";
  return new MachineError("connection-closed", message, {}, cause);
}
