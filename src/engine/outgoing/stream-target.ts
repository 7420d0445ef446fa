import type { ByteSink, ByteSource } from "../../channels/index.js";
import { asError } from "../../errors/as-error.js";
import { assert, CancelledError, MachineError } from "../../errors/index.js";
import { isZero } from "../../memory/index.js";
import {
  ByteWriter,
  type Configuration,
  encodeCommand,
  MigrationCommand,
  pingCommand,
  plainCommand,
  postcopyAdviseCommand,
  type PostcopyAdvice,
  type RamBlockEntry,
  RamFlag,
  type RamRecordSink,
  ramRecordHeadBytes,
  type SectionHeader,
  SectionType,
  type StreamTail,
  writeRamRecordHead,
} from "../../wire/index.js";
import type { PageCounts } from "../mapped-ram/placed-pages.js";
import type { RamSectionType } from "../migration-target.js";
import { PostcopyPing } from "../postcopy/pings.js";
import { encodeRamPartEnd, encodeRamStart, encodeStreamHead } from "../stream-frames.js";
import type { OutgoingTarget } from "./outgoing-target.js";
import { SLICE_BYTES } from "./slice.js";
import { awaitShut } from "./return-path.js";
import type { XbzrleCache } from "./xbzrle-cache.js";

/** Options of {@link StreamTarget}. */
export interface StreamTargetOptions {
  /** The same connection's other direction: with it, the migration has ended when the destination says so. */
  readonly returnPath?: ByteSource;
  /** The migration may go over to postcopy: somebody else reads the return path then. */
  readonly postcopy?: PostcopyPreparation;
  /** Whether zero pages are looked for; otherwise they travel like all others. Default true. */
  readonly zeroPages?: boolean;
  /** Sends what changed in a page where that is less, from the second round on. */
  readonly xbzrle?: XbzrleCache;
}

/** What a stream says and hears that may go over to postcopy. */
export interface PostcopyPreparation {
  readonly advice: PostcopyAdvice;
  /** Resolves when the destination says that it has loaded everything; rejects when it says or does anything else. */
  readonly shut: () => Promise<void>;
}

/** Record heads of the smallest pages, block names and frames that come between two drains. */
const SLACK_BYTES = 128 << 10;
const XBZRLE_ENCODING = 1;
/** Encoding byte and be16 length in front of a delta. */
const XBZRLE_HEAD_BYTES = 3;

/**
 * Writes a migration as a classic stream. Records gather in one buffer, which each {@link drain} writes with one call.
 */
export class StreamTarget implements OutgoingTarget, RamRecordSink {
  readonly closesPages = false;
  readonly #sink: ByteSink;
  readonly #zeroPages: boolean;
  readonly #withReturnPath: boolean;
  readonly #advice: PostcopyAdvice | undefined;
  readonly #xbzrle: XbzrleCache | undefined;
  /** Settled by the destination; its failure is thrown by whatever comes next. */
  readonly #shut: Promise<void> | undefined;
  #hasShut = false;
  #refusal: Error | undefined;
  readonly #staging = new Uint8Array(SLICE_BYTES + SLACK_BYTES);
  readonly #view = new DataView(this.#staging.buffer);
  #staged = 0;
  /** What is no page, and too long for the staging: device sections. */
  #large: Uint8Array[] = [];
  #sentBytes = 0;
  #blockNames: readonly Uint8Array[] = [];
  /** What CONTINUE would refer to: -1 before the first record of a section. */
  #currentBlock = -1;
  #pageSize = 0;
  #ramId = 0;
  #round = 0;
  #sectionOpen = false;
  #tailGiven = false;
  #aborted = false;
  #normal = 0;
  #zero = 0;

  constructor(sink: ByteSink, options: StreamTargetOptions = {}) {
    this.#sink = sink;
    this.#zeroPages = options.zeroPages ?? true;
    this.#xbzrle = options.xbzrle;
    const { returnPath, postcopy } = options;
    this.#advice = postcopy?.advice;
    this.#withReturnPath = returnPath !== undefined || postcopy !== undefined;
    if (postcopy !== undefined) this.#shut = postcopy.shut();
    else if (returnPath !== undefined) this.#shut = awaitShut(returnPath);
    else return;
    this.#shut.then(
      () => {
        this.#hasShut = true;
        // A word that cannot be true is none.
        if (!this.#tailGiven) this.#refusal = tooEarly();
      },
      (error: unknown) => {
        this.#refusal = asError(error);
      },
    );
  }

  get hasArrived(): boolean {
    return this.#hasShut && this.#refusal === undefined;
  }

  get transferredBytes(): number {
    return this.#sentBytes + this.#staged + this.#large.reduce((sum, { length }) => sum + length, 0);
  }

  get pageCounts(): PageCounts {
    return { normal: this.#normal, zero: this.#zero };
  }

  configuration(configuration: Configuration | undefined): void {
    const writer = new ByteWriter();
    encodeStreamHead(writer, configuration);
    if (this.#withReturnPath) {
      encodeCommand(writer, plainCommand(MigrationCommand.OPEN_RETURN_PATH));
    }
    if (this.#advice !== undefined) {
      encodeCommand(writer, pingCommand(PostcopyPing.RETURN_PATH));
      encodeCommand(writer, postcopyAdviseCommand(this.#advice));
    }
    this.#put(writer.finish());
  }

  verbatim(bytes: Uint8Array): void {
    this.#endSection();
    this.#put(bytes);
  }

  ramStart(header: SectionHeader, blocks: readonly RamBlockEntry[], pageSize: number): RamRecordSink {
    const writer = new ByteWriter();
    encodeRamStart(writer, header, blocks);
    this.#put(writer.finish());
    this.#blockNames = blocks.map(({ name }) => new TextEncoder().encode(name));
    this.#pageSize = pageSize;
    this.#ramId = header.id;
    this.#sectionOpen = true;
    return this;
  }

  ramSectionEnd(type: RamSectionType, footer: boolean): void {
    // Its pages came in parts of their own: the END says only that it is one.
    if (type === SectionType.END) this.#endSection(footer);
    if (!this.#sectionOpen) this.#openSection(type);
    this.#endSection(footer);
  }

  page(block: number, address: number, bytes: Uint8Array, at: number): void {
    const pageSize = this.#pageSize;
    if (this.#zeroPages && isZero(bytes, at, pageSize)) {
      this.zeroPage(block, address);
      return;
    }
    if (this.#xbzrle !== undefined && this.#round > 1 && this.#deltaPage(block, address, bytes, at)) return;
    this.#putHead(block, address, RamFlag.PAGE);
    this.#staging.set(bytes.subarray(at, at + pageSize), this.#staged);
    this.#staged += pageSize;
    this.#normal += 1;
  }

  zeroPage(block: number, address: number): void {
    this.#xbzrle?.storeZero(block, address);
    this.#putHead(block, address, RamFlag.ZERO);
    this.#view.setUint8(this.#staged++, 0);
    this.#zero += 1;
  }

  xbzrlePage(): void {
    assert(false, "a delta comes from this side's own cache");
  }

  compressedPage(): void {
    assert(false, "compressed pages are of the past");
  }

  tail(_tail: StreamTail, bytes: Uint8Array): void {
    this.#tailGiven = true;
    this.#put(bytes);
  }

  beginRound(round: number): void {
    this.#round = round;
  }

  async drain(): Promise<void> {
    this.#throwRefusal();
    this.#endSection();
    const staged = this.#staging.subarray(0, this.#staged);
    const large = this.#large;
    this.#large = [];
    try {
      for (const bytes of staged.length === 0 ? large : [staged, ...large]) {
        await this.#sink.write(bytes);
        this.#sentBytes += bytes.length;
        if (bytes === staged) this.#staged = 0;
      }
    } catch (error) {
      await this.#judge(error);
    }
    this.#throwRefusal();
  }

  async finish(): Promise<void> {
    try {
      await this.#sink.end();
    } catch (error) {
      await this.#judge(error);
    }
    await this.#shut;
    this.#throwRefusal();
    // A channel that was closed may have dropped bytes that it had taken.
    if (this.#aborted && !this.hasArrived) throw new CancelledError();
  }

  abort(): void {
    this.#aborted = true;
    void this.#sink.close().catch(() => undefined);
  }

  /** Sends what changed since the page went out last. Returns false when the whole page has to go. */
  #deltaPage(block: number, address: number, bytes: Uint8Array, at: number): boolean {
    const cache = this.#xbzrle;
    if (cache === undefined) return false;
    const result = cache.encode(block, address, bytes, at, this.#round);
    if (result.kind === "same") return true;
    if (result.kind !== "hit") return false;
    this.#putHead(block, address, RamFlag.XBZRLE);
    this.#view.setUint8(this.#staged, XBZRLE_ENCODING);
    this.#view.setUint16(this.#staged + 1, result.length);
    this.#staged += XBZRLE_HEAD_BYTES;
    this.#staging.set(cache.encoded.subarray(0, result.length), this.#staged);
    this.#staged += result.length;
    return true;
  }

  #putHead(
    block: number,
    address: number,
    flag: typeof RamFlag.PAGE | typeof RamFlag.ZERO | typeof RamFlag.XBZRLE,
  ): void {
    if (!this.#sectionOpen) this.#openSection(SectionType.PART);
    const name = block === this.#currentBlock ? undefined : this.#blockNames[block];
    assert(
      this.#large.length === 0 &&
        this.#staged + ramRecordHeadBytes(name) + this.#pageSize + XBZRLE_HEAD_BYTES <= this.#staging.length,
      "drained after each slice",
    );
    this.#currentBlock = block;
    this.#staged = writeRamRecordHead(this.#view, this.#staged, address, flag, name);
  }

  #openSection(type: RamSectionType): void {
    this.#put(new ByteWriter().u8(type).u32(this.#ramId).finish());
    this.#currentBlock = -1;
    this.#sectionOpen = true;
  }

  #endSection(footer = true): void {
    if (!this.#sectionOpen) return;
    const writer = new ByteWriter();
    encodeRamPartEnd(writer, this.#ramId, footer);
    this.#put(writer.finish());
    this.#sectionOpen = false;
  }

  #put(bytes: Uint8Array): void {
    if (this.#large.length > 0 || this.#staged + bytes.length > this.#staging.length) {
      this.#large.push(bytes);
      return;
    }
    this.#staging.set(bytes, this.#staged);
    this.#staged += bytes.length;
  }

  #throwRefusal(): void {
    if (this.#refusal !== undefined) throw this.#refusal;
  }

  /**
   * What a channel that failed means is the destination's to say, on the return path: one that refuses says so and closes.
   * So does one that has loaded everything, before this side has finished writing and ending: then the guest is there.
   */
  async #judge(error: unknown): Promise<void> {
    if (this.#shut === undefined || !(error instanceof MachineError) || error.code !== "connection-closed")
      throw error;
    await this.#shut;
    this.#throwRefusal();
  }
}

function tooEarly(): MachineError {
  return new MachineError(
    "migration-failed",
    "The destination says that it has loaded what was not sent yet",
  );
}
