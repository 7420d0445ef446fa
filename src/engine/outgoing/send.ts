import type { ByteChannel, ByteSink, RandomAccessSource } from "../../channels/index.js";
import { CancelledError, MachineError, throwIfAborted } from "../../errors/index.js";
import { ByteWriter, encodeCommand, MigrationCommand, SectionType } from "../../wire/index.js";
import { MAPPED_RAM_CAPABILITY } from "../mapped-ram/capability.js";
import type { MappedRamFile } from "../mapped-ram/open.js";
import { readMappedRamTail } from "../mapped-ram/tail.js";
import { type ProgressListener, ProgressMeter } from "../progress.js";
import { encodeRamPartEnd, encodeRamStart, encodeStreamHead, endOfStream } from "../stream-frames.js";
import { PageSender } from "./page-sender.js";
import { readEarlySection, splitBetweenRam } from "./replay.js";
import { awaitShut } from "./return-path.js";

/** How to send. */
export interface SendOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** The same connection's other direction: with it, sending ends when the destination says that it has loaded all. */
  readonly returnPath?: ByteChannel;
}

/** What was sent. */
export interface SendResult {
  readonly sentBytes: number;
  readonly pages: { readonly normal: number; readonly zero: number };
  /** Whether the destination said that it loaded everything; undefined where there is no return path. */
  readonly confirmed?: true;
}

/**
 * Sends a mapped-ram file as an ordinary precopy stream, which loads in any QEMU of the same machine type.
 *
 * The configuration goes without the mapped-ram capability, because a loader demands to have what it lists; device
 * sections and commands go as they are.
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
  const abort = (): void => void sink.close();
  signal?.addEventListener("abort", abort, { once: true });
  try {
    return await new OutgoingMigration(file, skeleton, sink, options).run();
  } catch (error) {
    throw signal?.aborted === true ? new CancelledError(undefined, error) : error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

class OutgoingMigration {
  readonly #file: RandomAccessSource;
  readonly #skeleton: MappedRamFile;
  readonly #sink: ByteSink;
  readonly #options: SendOptions;
  readonly #meter: ProgressMeter;
  #sentBytes = 0;

  constructor(file: RandomAccessSource, skeleton: MappedRamFile, sink: ByteSink, options: SendOptions) {
    this.#file = file;
    this.#skeleton = skeleton;
    this.#sink = sink;
    this.#options = options;
    this.#meter = new ProgressMeter(options.onProgress);
  }

  async run(): Promise<SendResult> {
    const { returnPath } = this.#options;
    // Read before anything is sent: a file with damaged device sections must not reach a destination.
    const end = readMappedRamTail(this.#file, this.#skeleton);
    const shut = returnPath === undefined ? undefined : awaitShut(returnPath);
    // A destination that refuses early closes; that is reported by the write that fails, with this as its reason.
    shut?.catch(() => undefined);
    try {
      await this.#sendHead(returnPath !== undefined);
      const pages = await this.#sendPages();
      await this.#sendEnd();
      for (const piece of endOfStream(end, this.#capabilities(), new ByteWriter())) await this.#write(piece);
      await this.#sink.end();
      throwIfAborted(this.#options.signal);
      this.#meter.update(this.#sentBytes, () => ({
        phase: "waiting for the destination",
        remainingBytes: 0,
      }));
      await shut;
      const confirmed = shut === undefined ? {} : { confirmed: true as const };
      return { sentBytes: this.#sentBytes, pages, ...confirmed };
    } catch (error) {
      if (shut === undefined || !(error instanceof MachineError) || error.code !== "connection-closed")
        throw error;
      await shut;
      throw error;
    }
  }

  #capabilities(): string[] {
    return this.#skeleton.configuration.capabilities.filter((name) => name !== MAPPED_RAM_CAPABILITY);
  }

  async #sendHead(withReturnPath: boolean): Promise<void> {
    const { configuration, beforeRam, ram, blocks, footers } = this.#skeleton;
    const writer = new ByteWriter();
    encodeStreamHead(writer, { ...configuration, capabilities: this.#capabilities() });
    if (withReturnPath) {
      encodeCommand(writer, { command: MigrationCommand.OPEN_RETURN_PATH, data: new Uint8Array() });
    }
    for (const section of beforeRam) writer.raw(readEarlySection(this.#file, section));
    encodeRamStart(writer, ram, blocks);
    encodeRamPartEnd(writer, ram.id, footers);
    const { setup } = splitBetweenRam(this.#skeleton);
    for (const section of setup) writer.raw(readEarlySection(this.#file, section));
    await this.#write(writer.finish());
  }

  async #sendPages(): Promise<{ normal: number; zero: number }> {
    const { ram, footers, blocks, totalBytes, pageSize } = this.#skeleton;
    await this.#write(new ByteWriter().u8(SectionType.PART).u32(ram.id).finish());
    const sender = new PageSender(this.#file, pageSize, async (bytes, coveredBytes) => {
      await this.#write(bytes);
      this.#meter.update(this.#sentBytes, () => ({
        phase: "sending",
        totalBytes,
        remainingBytes: totalBytes - coveredBytes,
      }));
    });
    for (const block of blocks) await sender.sendBlock(block);
    await sender.flush();
    await this.#write(endOfPart(ram.id, footers));
    return { normal: sender.normalPages, zero: sender.zeroPages };
  }

  async #sendEnd(): Promise<void> {
    const { ram, footers } = this.#skeleton;
    const { rounds } = splitBetweenRam(this.#skeleton);
    const writer = new ByteWriter();
    for (const section of rounds) writer.raw(readEarlySection(this.#file, section));
    writer.u8(SectionType.END).u32(ram.id).raw(endOfPart(ram.id, footers));
    await this.#write(writer.finish());
  }

  async #write(bytes: Uint8Array): Promise<void> {
    await this.#sink.write(bytes);
    throwIfAborted(this.#options.signal);
    this.#sentBytes += bytes.length;
  }
}

function endOfPart(ramId: number, footers: boolean): Uint8Array {
  const writer = new ByteWriter();
  encodeRamPartEnd(writer, ramId, footers);
  return writer.finish();
}
