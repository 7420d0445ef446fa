import { assert, CancelledError, throwIfAborted } from "../../errors/index.js";
import { PageBitmap, type PageRun } from "../../memory/index.js";
import {
  ByteWriter,
  decodeStreamTail,
  encodeSectionFooter,
  encodeSectionHeader,
  RAM_SECTION,
  type RamRecordSink,
  ramRecordHeadBytes,
  SECTION_FOOTER_BYTES,
  SectionType,
} from "../../wire/index.js";
import {
  type Breathe,
  type DeviceState,
  type DirtyLog,
  eachPiece,
  eventLoopTurns,
  type HostRamBlock,
  type MigrationHost,
} from "../host.js";
import type { PositionedFile } from "../mapped-ram/positioned-file.js";
import { MappedRamWriter } from "../mapped-ram/writer.js";
import { type ProgressListener, ProgressMeter } from "../progress.js";

/** Options of {@link saveHost}. */
export interface SaveHostOptions {
  /** Whether a running guest goes on while most of its memory is written; default true. */
  readonly live?: boolean;
  /**
   * Rounds over changed memory with the guest running, the first one over all of it included; default 10. The guest is
   * stopped after so many however much it changes: the file does not grow, but the last round gets no shorter either.
   */
  readonly maxRounds?: number;
  /** The guest is stopped as soon as its changed pages can be written within this time; default 100 ms. */
  readonly downtimeLimitMs?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /**
   * Makes the whole file durable and gives it its name: `() => file.commit()` of an OutputFile. It is part of the save:
   * when it fails, the guest runs on.
   */
  readonly commit?: () => Promise<void>;
}

/** What a save did. */
export interface SaveHostResult {
  /** Rounds over memory, the last one with the guest stopped included. */
  readonly rounds: number;
  /** Page records written, re-dirtied pages each time. */
  readonly pages: { readonly normal: number; readonly zero: number };
  /** Pages that the last round had to write. */
  readonly lastRoundPages: number;
  /** From asking the guest to stop until all of it was written; without `commit`. 0 for a guest that did not run. */
  readonly downtimeMs: number;
  readonly totalMs: number;
  /** Bytes that a classic migration stream with the same rounds would have had. */
  readonly streamBytes: number;
  /** Length of the file. */
  readonly fileBytes: number;
}

const DEFAULT_ROUNDS = 10;
const DEFAULT_DOWNTIME_MS = 100;
/** Written between two turns of the event loop: a few milliseconds. */
const WRITE_SLICE_BYTES = 4 << 20;
const RAM_ID = 1;
const FIRST_DEVICE_ID = 2;
const FILE_HEADER_BYTES = 8;
/** Type byte, id, length of the name, instance and version of a START; without the name. */
const SECTION_HEAD_BYTES = 1 + 4 + 1 + 4 + 4;
/** Type byte and section id of a PART or END, and its EOS record. */
const LATER_PART_BYTES = 1 + 4 + 8 + SECTION_FOOTER_BYTES;

/**
 * Saves an embedded machine into a mapped-ram file: rounds over changed memory while the guest runs, then a last one
 * with the guest stopped, and the devices. The guest stays stopped; when the save fails or is cancelled, one that ran
 * before runs on and the file is worthless.
 *
 * @param file Empty.
 * @throws CancelledError when the signal fires; whatever the host and the file throw.
 */
export async function saveHost(
  host: MigrationHost,
  file: PositionedFile,
  options: SaveHostOptions = {},
): Promise<SaveHostResult> {
  throwIfAborted(options.signal);
  const wasRunning = host.running;
  try {
    return await new HostSave(host, file, options).run();
  } catch (error) {
    if (wasRunning) await host.run();
    throw options.signal?.aborted === true ? new CancelledError(undefined, error) : error;
  }
}

/** Hands out pages: a dirty log, or the memory itself. */
type PageSource = Pick<DirtyLog, "take">;

class HostSave {
  readonly #host: MigrationHost;
  readonly #file: PositionedFile;
  readonly #options: SaveHostOptions;
  readonly #writer: MappedRamWriter;
  readonly #meter: ProgressMeter;
  /** As they were at the start: names and lengths, not memory. */
  readonly #blocks: readonly Pick<HostRamBlock, "name" | "usedLength">[];
  readonly #totalBytes: number;
  readonly #startMs = performance.now();
  #rounds = 0;
  #coveredBytes = 0;
  /** Bytes of a classic stream that are no page records. */
  #frameBytes = 0;
  /** Time spent on writing pages, without the guest's turns. */
  #writingMs = 0;
  #phase = "saving";

  constructor(host: MigrationHost, file: PositionedFile, options: SaveHostOptions) {
    this.#host = host;
    this.#file = file;
    this.#options = options;
    this.#writer = new MappedRamWriter(file);
    this.#meter = new ProgressMeter(options.onProgress);
    this.#blocks = host.ramBlocks().map(({ name, usedLength }) => ({ name, usedLength }));
    this.#totalBytes = this.#blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
  }

  async run(): Promise<SaveHostResult> {
    const { live = true, signal, commit } = this.#options;
    const host = this.#host;
    const wasRunning = host.running;
    const log = live && wasRunning ? host.startDirtyLog() : undefined;
    try {
      const sink = this.#begin();
      let dirty = this.#bitmaps();
      for (const bitmap of dirty) bitmap.setRange(0, bitmap.pageCount);
      if (log !== undefined) dirty = await this.#precopy(log, sink, dirty);
      const stopMs = performance.now();
      this.#phase = "stopping";
      await host.stop();
      await log?.sync(dirty, undefined);
      const lastRoundPages = countPages(dirty);
      await this.#round(log ?? memoryOf(host), sink, dirty, log === undefined ? this.#breathe() : undefined);
      this.#writer.ramSectionEnd(SectionType.END, true);
      throwIfAborted(signal);
      const tailBytes = this.#finish(host.saveDevices());
      const nowMs = performance.now();
      const fileBytes = this.#file.sizeBytes;
      // From here on a signal comes too late: the file is whole.
      await commit?.();
      const pages = this.#writer.pageCounts;
      return {
        rounds: this.#rounds,
        pages,
        lastRoundPages,
        downtimeMs: wasRunning ? nowMs - stopMs : 0,
        totalMs: nowMs - this.#startMs,
        streamBytes: this.#frameBytes + recordBytes(pages, host.pageSize) + tailBytes,
        fileBytes,
      };
    } finally {
      log?.stop();
    }
  }

  /** Rounds with the guest running. Returns what is dirty when it is time to stop. */
  async #precopy(log: DirtyLog, sink: RamRecordSink, all: PageBitmap[]): Promise<PageBitmap[]> {
    const { maxRounds = DEFAULT_ROUNDS, downtimeLimitMs = DEFAULT_DOWNTIME_MS } = this.#options;
    const { pageSize } = this.#host;
    const breathe = this.#breathe();
    let dirty = all;
    while (this.#rounds < maxRounds) {
      await this.#round(log, sink, dirty, breathe);
      this.#writer.ramSectionEnd(SectionType.PART, true);
      dirty = this.#bitmaps();
      await log.sync(dirty, breathe);
      const expectedMs = (countPages(dirty) * pageSize * this.#writingMs) / this.#coveredBytes;
      if (expectedMs <= downtimeLimitMs) break;
    }
    return dirty;
  }

  #begin(): RamRecordSink {
    const { machine, pageSize } = this.#host;
    this.#writer.configuration({ machine, capabilities: [] });
    const header = { id: RAM_ID, instance: 0, ...RAM_SECTION };
    const sink = this.#writer.ramStart(header, this.#blocks, pageSize);
    this.#writer.ramSectionEnd(SectionType.START, true);
    const listBytes = this.#blocks.reduce((sum, { name }) => sum + 1 + utf8Length(name) + 8, 0);
    const configurationBytes = 1 + 4 + utf8Length(machine);
    const sectionBytes =
      SECTION_HEAD_BYTES + RAM_SECTION.name.length + 8 + listBytes + 8 + SECTION_FOOTER_BYTES;
    this.#frameBytes = FILE_HEADER_BYTES + configurationBytes + sectionBytes;
    return sink;
  }

  /** One round over the dirty pages. */
  async #round(
    source: PageSource,
    sink: RamRecordSink,
    dirty: readonly PageBitmap[],
    breathe: Breathe | undefined,
  ): Promise<void> {
    const { pageSize } = this.#host;
    this.#rounds += 1;
    this.#frameBytes += LATER_PART_BYTES;
    let slice = 0;
    for (const [block, bitmap] of dirty.entries()) {
      const name = new TextEncoder().encode(this.#blocks[block]?.name ?? "");
      if (bitmap.nextSet(0) < bitmap.pageCount) {
        this.#frameBytes += ramRecordHeadBytes(name) - ramRecordHeadBytes(undefined);
      }
      for (const run of pieces(bitmap, WRITE_SLICE_BYTES / pageSize)) {
        const startMs = performance.now();
        source.take(block, run, (bytes, address) => {
          for (let at = 0; at < bytes.length; at += pageSize) sink.page(block, address + at, bytes, at);
        });
        const bytes = (run.end - run.start) * pageSize;
        this.#writingMs += performance.now() - startMs;
        this.#coveredBytes += bytes;
        slice += bytes;
        if (slice < WRITE_SLICE_BYTES || breathe === undefined) continue;
        slice = 0;
        await breathe();
      }
    }
    // Also after a small round: a guest that never gets a turn has nothing dirty and seems to have come to rest.
    await breathe?.();
  }

  /** Writes the devices; returns how many bytes they and the description take. */
  #finish(devices: readonly DeviceState[]): number {
    this.#phase = "writing the devices";
    const writer = new ByteWriter();
    for (const [index, { name, instance, version, payload, fields }] of devices.entries()) {
      const described = fields.reduce((sum, { size }) => sum + size, 0);
      assert(described === payload.length, `the fields of ${name} describe its payload`);
      const id = FIRST_DEVICE_ID + index;
      encodeSectionHeader(writer, SectionType.FULL, { id, name, instance, version });
      writer.raw(payload);
      encodeSectionFooter(writer, id);
    }
    const text = new TextEncoder().encode(describe(this.#host, devices));
    writer.u8(SectionType.EOF).u8(SectionType.VMDESCRIPTION).u32(text.length).raw(text);
    const bytes = writer.finish();
    this.#writer.tail(decodeStreamTail(bytes, 0), bytes);
    return bytes.length;
  }

  #bitmaps(): PageBitmap[] {
    return this.#blocks.map(({ usedLength }) => new PageBitmap(usedLength / this.#host.pageSize));
  }

  #breathe(): Breathe {
    const turn = eventLoopTurns(this.#options.signal);
    return async () => {
      this.#meter.update(this.#coveredBytes, () => ({
        phase: this.#phase,
        totalBytes: this.#totalBytes,
        dirtySyncCount: this.#rounds,
      }));
      await turn();
    };
  }
}

/** The runs of a bitmap, divided so that none is longer than `most` pages. */
function* pieces(bitmap: PageBitmap, most: number): Generator<PageRun> {
  for (const { start, end } of bitmap.runs()) {
    for (let at = start; at < end; at += most) yield { start: at, end: Math.min(end, at + most) };
  }
}

/** Pages of a guest that stands still, from its memory. */
function memoryOf(host: MigrationHost): PageSource {
  const { pageSize } = host;
  return {
    take(block, { start, end }, use) {
      const segments = host.ramBlocks()[block]?.segments ?? [];
      eachPiece(segments, start * pageSize, (end - start) * pageSize, WRITE_SLICE_BYTES, use);
    },
  };
}

function countPages(bitmaps: readonly PageBitmap[]): number {
  return bitmaps.reduce((sum, bitmap) => sum + bitmap.count(), 0);
}

/** Bytes of the records of a classic stream: heads that continue a block, a page or a fill byte each. */
function recordBytes(pages: { readonly normal: number; readonly zero: number }, pageSize: number): number {
  const head = ramRecordHeadBytes(undefined);
  return pages.normal * (head + pageSize) + pages.zero * (head + 1);
}

function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}

/** The vmstate description in the layout of QEMU's own. */
function describe(host: MigrationHost, devices: readonly DeviceState[]): string {
  return layOut({
    configuration: {
      vmsd_name: "configuration",
      version: 1,
      fields: [
        { name: "len", type: "uint32", size: 4 },
        { name: "name", type: "buffer", size: utf8Length(host.machine) },
      ],
    },
    page_size: host.pageSize,
    devices: devices.map(({ name, instance, version, fields }) => ({
      name,
      instance_id: instance,
      vmsd_name: name,
      version,
      fields: fields.map(({ name: field, type, size }) => ({ name: field, type, size })),
    })),
  });
}

type Json = number | string | readonly Json[] | { readonly [key: string]: Json };

/** JSON with a blank after each comma and colon: wire's describeCapabilities edits only what is laid out so. */
function layOut(value: Json): string {
  if (typeof value !== "object") return JSON.stringify(value);
  if (isList(value)) return `[${value.map(layOut).join(", ")}]`;
  const entries = Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${layOut(item)}`);
  return `{${entries.join(", ")}}`;
}

function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}
