import type { ByteSink } from "../../../channels/index.js";
import { ByteWriter, SectionType } from "../../../wire/index.js";
import { encodeRamPartEnd } from "../../stream-frames.js";
import type { PostcopyConnection } from "./connection.js";
import type { PageServerOptions } from "./page-server-options.js";
import type { PageRecords } from "./page-records.js";
import { hostPageSizeIn, type PageSource } from "./page-source.js";
import type { PostcopyCounters } from "./postcopy-statistics.js";
import type { BlockRun } from "./sent-pages.js";

const NOTHING = new Uint8Array();

/** Writes what a page server sends: pages that were taken, as parts of the RAM section, and the section's end. */
export class PageWriter {
  readonly #source: PageSource;
  readonly #options: Pick<PageServerOptions, "ramId" | "footers" | "onSent">;
  readonly #counters: PostcopyCounters;

  constructor(
    source: PageSource,
    options: Pick<PageServerOptions, "ramId" | "footers" | "onSent">,
    counters: PostcopyCounters,
  ) {
    this.#source = source;
    this.#options = options;
    this.#counters = counters;
  }

  /** Writes runs: on the main channel as a part of the RAM section, on the other as they are. */
  async write(
    connection: PostcopyConnection,
    records: PageRecords,
    channel: ByteSink,
    runs: readonly BlockRun[],
  ): Promise<void> {
    const { ramId, footers } = this.#options;
    const isMain = channel === connection.main;
    records.put(isMain ? new ByteWriter(8).u8(SectionType.PART).u32(ramId).finish() : NOTHING);
    for (const { block, start, end } of runs) {
      const targetPages = hostPageSizeIn(this.#source, block) / this.#source.targetPageSize;
      for (let page = start * targetPages; page < end * targetPages;) {
        page = records.append(block, page, end * targetPages);
        if (page < end * targetPages) await this.send(connection, channel, records.take());
      }
    }
    if (isMain) {
      const writer = new ByteWriter(16);
      encodeRamPartEnd(writer, ramId, footers);
      records.put(writer.finish());
    }
    await this.send(connection, channel, records.take());
  }

  /** Ends the stream, once everything that has content was sent. Zero pages that nobody asked for appear by themselves. */
  async end(connection: PostcopyConnection): Promise<void> {
    const { ramId, footers } = this.#options;
    const writer = new ByteWriter();
    writer.u8(SectionType.END).u32(ramId);
    encodeRamPartEnd(writer, ramId, footers);
    writer.u8(SectionType.EOF);
    await this.send(connection, connection.main, writer.finish());
  }

  async send(connection: PostcopyConnection, channel: ByteSink, bytes: Uint8Array): Promise<void> {
    await connection.writeTo(channel, bytes);
    this.#counters.sentBytes += bytes.length;
    this.#options.onSent?.();
  }
}
