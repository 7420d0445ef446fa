import type { ByteChannel, ByteSink, RandomAccessSource } from "../../channels/index.js";
import { assert, CancelledError, throwIfAborted } from "../../errors/index.js";
import {
  ByteWriter,
  encodeCommand,
  encodeMultifdFlush,
  MigrationCommand,
  SectionType,
} from "../../wire/index.js";
import { MAPPED_RAM_CAPABILITY } from "../mapped-ram/capability.js";
import type { MappedRamFile } from "../mapped-ram/open.js";
import { readMappedRamTail } from "../mapped-ram/tail.js";
import type { RamSectionType } from "../migration-target.js";
import { MultifdSender, type MultifdSendOptions } from "../multifd/send-pages.js";
import { watchStandstill } from "../multifd/standstill.js";
import { type ProgressListener, ProgressMeter } from "../progress.js";
import { encodeRamPartEnd, encodeRamStart, encodeStreamHead, endOfStream } from "../stream-frames.js";
import { PageSender } from "./page-sender.js";
import { readEarlySection, splitBetweenRam } from "./replay.js";
import { DestinationAnswer } from "./destination-answer.js";

/** How to send. */
export interface SendOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** A sentence for people: that the destination has taken nothing for long. */
  readonly onMessage?: (message: string) => void;
  /** The same connection's other direction: with it, sending ends when the destination says that it has loaded all. */
  readonly returnPath?: ByteChannel;
  /** Sends pages with content over channels of their own, to a destination that has as many. */
  readonly multifd?: MultifdSendOptions;
  /**
   * Names of blocks whose memory the destination has already, because it maps the file itself: they are listed, and none of
   * their pages are sent. Not with `multifd`.
   */
  readonly mappedBlocks?: ReadonlySet<string>;
}

/** What was sent. */
export interface SendResult {
  /** Over all channels. */
  readonly sentBytes: number;
  readonly pages: { readonly normal: number; readonly zero: number };
  /** Whether the destination said that it loaded everything; undefined where there is no return path. */
  readonly confirmed?: true;
}

/**
 * Sends a mapped-ram file as an ordinary precopy stream, which loads in any QEMU of the same machine type.
 *
 * The configuration goes without the mapped-ram capability, because a loader demands to have what it lists; device
 * sections and commands go as they are. When it fails, the channels are closed.
 *
 * @throws MachineError `connection-closed` or `migration-failed` when the destination does not take it; FormatError when
 *   the file is damaged; CancelledError.
 */
export async function sendMappedRam(
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  sink: ByteSink,
  options: SendOptions = {},
): Promise<SendResult> {
  const { signal } = options;
  throwIfAborted(signal);
  const migration = new FileMigration(file, skeleton, sink, options);
  const abort = (): void => migration.close();
  signal?.addEventListener("abort", abort, { once: true });
  try {
    return await migration.run();
  } catch (error) {
    migration.close();
    throw signal?.aborted === true ? new CancelledError(undefined, error) : error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

class FileMigration {
  readonly #file: RandomAccessSource;
  readonly #skeleton: MappedRamFile;
  readonly #sink: ByteSink;
  readonly #options: SendOptions;
  readonly #meter: ProgressMeter;
  readonly #multifd: MultifdSender | undefined;
  #sentBytes = 0;
  /** Guest memory that what went over the main channel stands for. */
  #coveredBytes = 0;
  /** Pages that went over channels of their own. */
  #multifdPages = 0;

  constructor(file: RandomAccessSource, skeleton: MappedRamFile, sink: ByteSink, options: SendOptions) {
    this.#file = file;
    this.#skeleton = skeleton;
    this.#sink = sink;
    this.#options = options;
    this.#meter = new ProgressMeter(options.onProgress);
    if (options.multifd === undefined) return;
    this.#multifd = new MultifdSender(options.multifd, skeleton, (bytes, pages) => {
      this.#sentBytes += bytes;
      this.#multifdPages += pages;
      this.#showProgress();
    });
  }

  async run(): Promise<SendResult> {
    const { returnPath, multifd, onMessage } = this.#options;
    // Read before anything is sent: a file with damaged device sections must not reach a destination.
    const end = readMappedRamTail(this.#file, this.#skeleton);
    const answer = new DestinationAnswer(returnPath, multifd !== undefined);
    const standstill = watchStandstill(() => this.#sentBytes, multifd, onMessage);
    try {
      const pages = await answer.orRefusal(this.#send(end));
      this.#meter.update(this.#sentBytes, () => ({
        phase: "waiting for the destination",
        remainingBytes: 0,
      }));
      await answer.shut;
      const confirmed = returnPath === undefined ? {} : { confirmed: true as const };
      return { sentBytes: this.#sentBytes, pages, ...confirmed };
    } catch (error) {
      throw await answer.reasonFor(error);
    } finally {
      standstill.stop();
    }
  }

  /** Closes all channels at once: what is being written fails. */
  close(): void {
    void this.#sink.close().catch(() => undefined);
    this.#multifd?.close();
  }

  async #send(end: ReturnType<typeof readMappedRamTail>): Promise<SendResult["pages"]> {
    const multifd = this.#multifd;
    await this.#sendHead(this.#options.returnPath !== undefined);
    const pages = await this.#sendPages();
    await this.#sendEnd();
    for (const piece of endOfStream(end, this.#capabilities(), new ByteWriter())) await this.#write(piece);
    await this.#sink.end();
    // All of it has been handed over; a destination that has loaded everything may have closed its end already.
    void multifd?.end().catch(() => undefined);
    throwIfAborted(this.#options.signal);
    return pages;
  }

  #capabilities(): string[] {
    return this.#skeleton.configuration.capabilities.filter((name) => name !== MAPPED_RAM_CAPABILITY);
  }

  async #sendHead(withReturnPath: boolean): Promise<void> {
    const { configuration, beforeRam, ram, blocks } = this.#skeleton;
    const writer = new ByteWriter();
    encodeStreamHead(writer, { ...configuration, capabilities: this.#capabilities() });
    if (withReturnPath) {
      encodeCommand(writer, { command: MigrationCommand.OPEN_RETURN_PATH, data: new Uint8Array() });
    }
    for (const section of beforeRam) writer.raw(readEarlySection(this.#file, section));
    encodeRamStart(writer, ram, blocks);
    await this.#endOfPart(writer, SectionType.START);
    const { setup } = splitBetweenRam(this.#skeleton);
    for (const section of setup) writer.raw(readEarlySection(this.#file, section));
    await this.#write(writer.finish());
  }

  async #sendPages(): Promise<SendResult["pages"]> {
    const { ram, pageSize } = this.#skeleton;
    const { mappedBlocks } = this.#options;
    const blocks = this.#skeleton.blocks.filter(({ name }) => mappedBlocks?.has(name) !== true);
    const writer = new ByteWriter();
    await this.#write(writer.u8(SectionType.PART).u32(ram.id).finish());
    const sender = new PageSender(this.#file, pageSize, async (bytes, coveredBytes) => {
      await this.#write(bytes);
      this.#coveredBytes = coveredBytes;
      this.#showProgress();
    });
    const multifd = this.#multifd;
    assert(multifd === undefined || mappedBlocks === undefined, "mapped blocks are not for multifd");
    if (multifd === undefined) for (const block of blocks) await sender.sendBlock(block);
    else await Promise.all([multifd.sendPages(), sendZeroPages(sender, blocks)]);
    await sender.flush();
    await this.#endOfPart(writer.clear(), SectionType.PART);
    await this.#write(writer.finish());
    return { normal: sender.normalPages + this.#multifdPages, zero: sender.zeroPages };
  }

  async #sendEnd(): Promise<void> {
    const { ram } = this.#skeleton;
    const { rounds } = splitBetweenRam(this.#skeleton);
    const writer = new ByteWriter();
    for (const section of rounds) writer.raw(readEarlySection(this.#file, section));
    writer.u8(SectionType.END).u32(ram.id);
    await this.#endOfPart(writer, SectionType.END);
    await this.#write(writer.finish());
  }

  async #endOfPart(writer: ByteWriter, type: RamSectionType): Promise<void> {
    const { ram, footers } = this.#skeleton;
    await this.#syncChannels(writer, type);
    encodeRamPartEnd(writer, ram.id, footers);
  }

  /**
   * Lets the channels wait for the main one, before the end of a part of RAM. That of START is what keeps them from pages
   * until the destination has made its RAM ready: QEMU without it crashes.
   *
   * The channels have theirs before the main one has its own: a destination that waits for them there reads no further,
   * and what is written behind it might find no room.
   */
  async #syncChannels(writer: ByteWriter, type: RamSectionType): Promise<void> {
    const multifd = this.#multifd;
    if (multifd === undefined || (multifd.syncMode === "round" && type === SectionType.PART)) return;
    await multifd.sync();
    if (multifd.syncMode === "round") encodeMultifdFlush(writer);
  }

  #showProgress(): void {
    const { totalBytes, pageSize } = this.#skeleton;
    this.#meter.update(this.#sentBytes, () => ({
      phase: "sending",
      totalBytes,
      remainingBytes: totalBytes - this.#coveredBytes - this.#multifdPages * pageSize,
    }));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    await this.#sink.write(bytes);
    throwIfAborted(this.#options.signal);
    this.#sentBytes += bytes.length;
  }
}

async function sendZeroPages(sender: PageSender, blocks: MappedRamFile["blocks"]): Promise<void> {
  for (const block of blocks) await sender.sendZeroPages(block);
  await sender.flush();
}
