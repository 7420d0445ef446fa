import { CancelledError } from "../../errors/index.js";
import type {
  Configuration,
  RamBlockEntry,
  RamRecordSink,
  SectionHeader,
  StreamTail,
} from "../../wire/index.js";
import type { PageCounts } from "../mapped-ram/placed-pages.js";
import type { PositionedFile } from "../mapped-ram/positioned-file.js";
import { MappedRamWriter, type MappedRamWriterOptions } from "../mapped-ram/writer.js";
import type { RamSectionType } from "../migration-target.js";
import type { OutgoingTarget } from "./outgoing-target.js";
import { OverlappedPages, type PlacePages } from "./overlapped-pages.js";

/** Options of {@link MappedRamTarget}. */
export interface MappedRamTargetOptions extends MappedRamWriterOptions {
  /**
   * How many pieces of memory are written at a time, beside this thread: 1 to 255, as QEMU's `multifd-channels`. Without it,
   * and where the file goes through the page cache, one page after the other is gathered and written.
   */
  readonly channels?: number;
  /** Makes the whole file durable, and gives it its name where it has another one until then. */
  readonly commit?: () => Promise<void>;
}

/** Writes a migration as a mapped-ram file. */
export class MappedRamTarget implements OutgoingTarget {
  readonly closesPages = true;
  /** A file says nothing: {@link finish} does. */
  readonly hasArrived = false;
  readonly #file: CountingFile;
  readonly #writer: MappedRamWriter;
  readonly #commit: (() => Promise<void>) | undefined;
  readonly #channels: number | undefined;
  #overlapped: OverlappedPages | undefined;
  #aborted = false;

  constructor(file: PositionedFile, options: MappedRamTargetOptions = {}) {
    this.#file = new CountingFile(file);
    this.#writer = new MappedRamWriter(this.#file, options);
    this.#commit = options.commit;
    this.#channels = options.channels;
  }

  get transferredBytes(): number {
    return this.#file.writtenBytes;
  }

  get overlapped(): OverlappedPages | undefined {
    return this.#overlapped;
  }

  get pageCounts(): PageCounts {
    return this.#writer.pageCounts;
  }

  configuration(configuration: Configuration | undefined): void {
    this.#writer.configuration(configuration);
  }

  verbatim(bytes: Uint8Array): void {
    this.#writer.verbatim(bytes);
  }

  ramStart(header: SectionHeader, blocks: readonly RamBlockEntry[], pageSize: number): RamRecordSink {
    const pages = this.#writer.ramStart(header, blocks, pageSize);
    if (this.#channels !== undefined && !this.#file.isCached) {
      const place: PlacePages = (...run) => pages.placePages(...run);
      this.#overlapped = new OverlappedPages(place, pageSize, this.#channels);
    }
    return pages;
  }

  ramSectionEnd(type: RamSectionType, footer: boolean): void {
    this.#writer.ramSectionEnd(type, footer);
  }

  tail(tail: StreamTail, bytes: Uint8Array): void {
    this.#writer.tail(tail, bytes);
  }

  beginRound(): void {
    // Pages have their place whatever the round; but two writes of one must not run together.
    this.#overlapped?.beginRound();
  }

  /** Writes are synchronous, or {@link overlapped} waits for them. */
  drain(): Promise<void> {
    return this.#aborted ? Promise.reject(new CancelledError()) : Promise.resolve();
  }

  async finish(): Promise<void> {
    await this.#commit?.();
  }

  abort(): void {
    this.#aborted = true;
  }
}

/** Counts what is written, as QEMU's `transferred` does. */
class CountingFile implements PositionedFile {
  writtenBytes = 0;
  readonly #file: PositionedFile;

  constructor(file: PositionedFile) {
    this.#file = file;
  }

  get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  get isCached(): boolean {
    return this.#file.isCached === true;
  }

  readAt(target: Uint8Array, position: number): number {
    return this.#file.readAt(target, position);
  }

  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    this.#file.writeAt(bytes, at, length, position);
    this.writtenBytes += length;
  }

  async startWrite(bytes: Uint8Array, position: number): Promise<void> {
    if (this.#file.startWrite === undefined) this.#file.writeAt(bytes, 0, bytes.length, position);
    else await this.#file.startWrite(bytes, position);
    this.writtenBytes += bytes.length;
  }

  zeroAt(position: number, length: number): void {
    this.#file.zeroAt(position, length);
  }
}
