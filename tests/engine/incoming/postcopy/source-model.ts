import type { ByteChannel } from "../../../../src/channels/index.js";
import type { PostcopyBlock, PostcopyStart } from "../../../../src/engine/index.js";
import { StreamInput } from "../../../../src/engine/stream-input.js";
import { isZero, PageBitmap } from "../../../../src/memory/index.js";
import {
  ByteReader,
  ByteWriter,
  type Command,
  decodePageRequest,
  decodeReceivedBitmap,
  decodeReceivedBitmapName,
  decodeReturnPathRecord,
  encodeCommand,
  encodeEndOfSection,
  encodeSectionFooter,
  MigrationCommand,
  plainCommand,
  RamFlag,
  receivedBitmapCommand,
  ReturnPathMessage,
  SectionType,
} from "../../../../src/wire/index.js";
import type { Random } from "../../../support/random.js";

/** Target page size of the model's guests, in bytes: the smallest that leaves room for all flags. */
export const PAGE = 1024;
const RAM_ID = 3;

/** A block of the model. */
export interface ModelBlock {
  readonly name: string;
  readonly hostPageSize: number;
  readonly bytes: Uint8Array;
  /** Host pages that the destination has when postcopy begins. */
  readonly received: ReadonlySet<number>;
}

/** Where a listener begins that this source sends to. */
export function startOf(blocks: readonly ModelBlock[], preempt = false): PostcopyStart {
  return {
    blocks: blocks.map(({ name, bytes, hostPageSize, received }, index): PostcopyBlock => {
      const bitmap = new PageBitmap(bytes.length / PAGE);
      const perPage = hostPageSize / PAGE;
      for (const page of received) bitmap.setRange(page * perPage, (page + 1) * perPage);
      return { name, index, usedLength: bytes.length, hostPageSize, received: bitmap.toBytes() };
    }),
    targetPageSize: PAGE,
    ramSectionId: RAM_ID,
    footers: true,
    currentBlock: -1,
    unread: new Uint8Array(),
    offset: 0,
    preempt,
  };
}

/** Writes RAM records, and remembers which block a record may continue. */
export class Records {
  readonly writer = new ByteWriter(1 << 16);
  #last: string | undefined;

  begin(end = false): this {
    this.writer.u8(end ? SectionType.END : SectionType.PART).u32(RAM_ID);
    return this;
  }

  /** One target page. */
  page(block: string, address: number, bytes: Uint8Array, mayContinue = true): this {
    const flag = isZero(bytes, 0, bytes.length) ? RamFlag.ZERO : RamFlag.PAGE;
    const goesOn = mayContinue && this.#last === block;
    this.writer.u64(address + flag + (goesOn ? RamFlag.CONTINUE : 0));
    if (!goesOn) this.writer.idstr(block);
    if (flag === RamFlag.ZERO) this.writer.u8(0);
    else this.writer.raw(bytes);
    this.#last = block;
    return this;
  }

  close(): this {
    encodeEndOfSection(this.writer);
    encodeSectionFooter(this.writer, RAM_ID);
    return this;
  }

  command(command: Command): this {
    encodeCommand(this.writer, command);
    return this;
  }

  /** What was written since the last time. */
  take(): Uint8Array {
    const bytes = this.writer.finish().slice();
    this.writer.clear();
    return bytes;
  }
}

interface Place {
  readonly block: number;
  readonly page: number;
}

/** What QEMU's source does from RUN on, over memory that stands still: requests first, everything once, resumes. */
export class SourceModel {
  readonly #blocks: readonly ModelBlock[];
  readonly #random: Random;
  /** Host pages still to be sent, by block. */
  #dirty: Set<number>[];
  #requests: Place[] = [];
  #bitmaps: { name: string; bytes: Uint8Array }[] = [];
  #resumed = false;
  #changed: () => void = () => undefined;
  /** Of the last connection, in order. */
  asked: string[] = [];
  confirmed = false;

  constructor(blocks: readonly ModelBlock[], random: Random) {
    this.#blocks = blocks;
    this.#random = random;
    this.#dirty = blocks.map(({ bytes, hostPageSize, received }) => {
      const pages = Array.from({ length: bytes.length / hostPageSize }, (_, page) => page);
      return new Set(pages.filter((page) => !received.has(page)));
    });
  }

  /** Sends until it is told that all is well; rejects when the connection breaks. */
  async run(main: ByteChannel, preempt: ByteChannel | undefined, resume = false): Promise<void> {
    this.#requests = [];
    this.asked = [];
    this.#bitmaps = [];
    this.#resumed = false;
    const heard = this.#hear(main);
    const sent = (async () => {
      if (resume) await this.#resume(main);
      await this.#send(main, preempt);
    })();
    await Promise.all([heard, sent]);
  }

  async #send(main: ByteChannel, preempt: ByteChannel | undefined): Promise<void> {
    const mainRecords = new Records();
    const preemptRecords = new Records();
    while (this.#dirty.some((pages) => pages.size > 0)) {
      const request = this.#requests.shift();
      if (request !== undefined) {
        if (!this.#dirty[request.block]!.delete(request.page)) continue;
        const records = preempt === undefined ? mainRecords.begin() : preemptRecords;
        this.#put(records, request);
        if (preempt === undefined) mainRecords.close();
        await (preempt ?? main).write(records.take());
      } else {
        mainRecords.begin();
        for (let count = this.#random.below(6); count >= 0; count--) this.#putAny(mainRecords);
        await main.write(mainRecords.close().take());
      }
      if (this.#random.below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    mainRecords.begin(true).close().writer.u8(SectionType.EOF);
    await main.write(mainRecords.take());
  }

  #putAny(records: Records): void {
    const candidates = this.#dirty.flatMap((pages, block) => (pages.size > 0 ? [block] : []));
    if (candidates.length === 0) return;
    const block = this.#random.pick(candidates);
    const pages = [...this.#dirty[block]!];
    // Neighbours more often than not, as a walk over memory meets them.
    const page = this.#random.below(3) > 0 ? pages[0]! : this.#random.pick(pages);
    this.#dirty[block]!.delete(page);
    this.#put(records, { block, page });
  }

  #put(records: Records, { block, page }: Place): void {
    const { name, bytes, hostPageSize } = this.#blocks[block]!;
    for (let at = page * hostPageSize; at < (page + 1) * hostPageSize; at += PAGE) {
      records.page(name, at, bytes.subarray(at, at + PAGE), this.#random.below(4) > 0);
    }
  }

  async #resume(main: ByteChannel): Promise<void> {
    const records = new Records();
    for (const { name } of this.#blocks) records.command(receivedBitmapCommand(name));
    await main.write(records.take());
    await this.#until(() => this.#bitmaps.length === this.#blocks.length);
    this.#dirty = this.#blocks.map(({ name, bytes, hostPageSize }) => {
      const bitmap = PageBitmap.fromBytes(
        bytes.length / PAGE,
        this.#bitmaps.find((one) => one.name === name)!.bytes,
      );
      const pages = Array.from({ length: bytes.length / hostPageSize }, (_, page) => page);
      return new Set(pages.filter((page) => !bitmap.has((page * hostPageSize) / PAGE)));
    });
    await main.write(records.command(plainCommand(MigrationCommand.POSTCOPY_RESUME)).take());
    await this.#until(() => this.#resumed);
  }

  #until(isSo: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#changed = () => {
        if (isSo()) resolve();
      };
      this.#changed();
    });
  }

  /** Reads the return path until SHUT. */
  async #hear(main: ByteChannel): Promise<void> {
    const input = new StreamInput(main);
    let block = -1;
    while (!this.confirmed) {
      const { type, data } = await input.parse(decodeReturnPathRecord);
      const reader = new ByteReader(data);
      if (type === ReturnPathMessage.SHUT) this.confirmed = reader.u32() === 0;
      else if (type === ReturnPathMessage.RESUME_ACK) this.#resumed = true;
      else if (type === ReturnPathMessage.RECV_BITMAP) {
        const name = decodeReceivedBitmapName(reader);
        const pages = this.#blocks.find((one) => one.name === name)!.bytes.length / PAGE;
        const bytes = await input.parse((more) => decodeReceivedBitmap(more, name, pages));
        this.#bitmaps.push({ name, bytes });
      } else {
        const request = decodePageRequest(type, reader);
        if (request.block !== undefined) block = this.#blocks.findIndex(({ name }) => name === request.block);
        const { hostPageSize } = this.#blocks[block]!;
        const place = { block, page: request.start / hostPageSize };
        const key = `${block} ${place.page}`;
        if (request.length !== hostPageSize || !Number.isInteger(place.page)) throw new Error("no host page");
        if (this.asked.includes(key)) throw new Error(`${key} was asked for twice`);
        this.asked.push(key);
        this.#requests.push(place);
      }
      this.#changed();
    }
  }
}
