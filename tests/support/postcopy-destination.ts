/**
 * A postcopy destination as QEMU is one, as strict as it: pages are placed once, whole host pages at a time, and the guest
 * touches memory while they come.
 *
 * @module
 */

import type { ByteChannel } from "../../src/channels/index.js";
import { StreamInput } from "../../src/engine/stream-input.js";
import { asError } from "../../src/errors/as-error.js";
import { assert } from "../../src/errors/index.js";
import {
  afterType,
  ByteWriter,
  decodeBlockListEntry,
  decodeBlockListHead,
  decodeCommand,
  decodeConfiguration,
  decodeFileHeader,
  decodePackaged,
  decodePostcopyAdvise,
  decodeRamDiscard,
  decodeReceivedBitmapCommand,
  decodeSectionFooter,
  decodeSectionHeader,
  encodePageRequest,
  encodePong,
  encodeReceivedBitmap,
  encodeResumeAck,
  encodeShut,
  MigrationCommand,
  RamRecordDecoder,
  type RamRecordSink,
  SectionType,
} from "../../src/wire/index.js";
import { PageBitmap } from "../../src/memory/index.js";
import type { Random } from "./random.js";

const PAGE = 4096;

/** How the destination and its guest behave. */
export interface PostcopyDestinationOptions {
  readonly random: Random;
  /** Pages that the guest touches in all, and those that loading the devices touches before. */
  readonly touches: number;
  readonly touchesOfDevices: number;
  /** Pages that are waited for at a time at most: processors, and threads of QEMU's. */
  readonly mostWaiting: number;
  readonly hasPreempt: boolean;
  /** As QEMU 7.2: closes nothing of itself, waits for the end of the preempt channel. */
  readonly readsPreemptToItsEnd?: boolean;
}

interface Block {
  readonly name: string;
  readonly memory: Buffer;
  readonly hostPageSize: number;
  readonly received: PageBitmap;
}

/** The host page that a channel collects. */
interface TemporaryPage {
  place: { readonly block: number; readonly start: number } | undefined;
  pages: number;
  readonly bytes: Buffer;
}

/** Reads a stream, asks for pages and checks that everything keeps to the rules; what does not is thrown. */
export class PostcopyDestination {
  readonly blocks: Block[] = [];
  /** What precopy brought, in pages, and how many requests were made. */
  precopyPages = 0;
  requests = 0;
  /** Requests that came while or after the end of the stream was read. */
  lateRequests = 0;
  packageBytes: Uint8Array = new Uint8Array();
  #state: "precopy" | "discarded" | "listening" | "running" | "ended" = "precopy";
  readonly #options: PostcopyDestinationOptions;
  readonly #waiting = new Map<string, { readonly block: number; readonly start: number }>();
  #main: ByteChannel | undefined;
  #lastAsked: string | undefined;
  #ramId = 0;
  #touchesLeft: number;
  #wake: (() => void)[] = [];
  #preempt: Promise<void> = Promise.resolve();
  #preemptConnected: Promise<void>;
  #onPreempt: () => void = () => undefined;
  #failure: Error | undefined;
  /** Writes to the return path follow each other. */
  #writing: Promise<void> = Promise.resolve();

  constructor(options: PostcopyDestinationOptions) {
    this.#options = options;
    this.#touchesLeft = options.touches;
    this.#preemptConnected = new Promise((resolve) => (this.#onPreempt = resolve));
  }

  /** Takes the preempt channel; what goes wrong on it fails {@link run}, but not a break. */
  takePreempt(channel: ByteChannel): void {
    this.#preempt = this.#readPreempt(channel).catch((error: unknown) => {
      if (!isBreak(error)) this.#failure ??= asError(error);
      this.#changed();
    });
    this.#onPreempt();
  }

  /** Loads from a fresh connection, or goes on over another one; `paused` when it broke with the guest running. */
  async run(main: ByteChannel): Promise<"done" | "paused"> {
    this.#main = main;
    // A thread that did not hear of the break asks as if this were the connection before.
    const [stray] = this.#waiting.values();
    if (stray !== undefined) this.#ask(stray, true);
    const input = new StreamInput(main);
    try {
      // QEMU 7.2 begins with nothing before it has both.
      if (this.#options.readsPreemptToItsEnd === true) await this.#preemptConnected;
      if (this.blocks.length === 0) await this.#readHead(input);
      while (await this.#readSection(input));
      await this.#end();
      return "done";
    } catch (error) {
      if (this.#failure !== undefined) throw this.#failure;
      // It has everything, and only nobody heard of it.
      if (this.#state === "ended" && isBreak(error)) return "done";
      if (this.#state !== "running" || !isBreak(error)) throw error;
      await this.#preempt;
      await this.#writing.catch(() => undefined);
      this.#writing = Promise.resolve();
      this.#preemptConnected = new Promise((resolve) => (this.#onPreempt = resolve));
      return "paused";
    }
  }

  async #readHead(input: StreamInput): Promise<void> {
    await input.parse(decodeFileHeader);
    const configuration = await input.parse((reader) => decodeConfiguration(afterType(reader)));
    assert(configuration.capabilities.length === 0, "a capability that the destination does not have");
  }

  /** @returns false at the end of the stream. */
  async #readSection(input: StreamInput): Promise<boolean> {
    const type = await input.peek();
    if (this.#failure !== undefined) throw this.#failure;
    if (type === SectionType.EOF) return false;
    if (type === SectionType.COMMAND) await this.#command(input);
    else if (type === SectionType.START || type === SectionType.FULL) await this.#start(input);
    else {
      assert(type === SectionType.PART || type === SectionType.END, `section type ${String(type)}`);
      const id = await input.parse((reader) => afterType(reader).u32());
      assert(id === this.#ramId, "no other section has parts");
      await this.#readRecords(input, "main");
      await input.parse((reader) => decodeSectionFooter(reader, { id, name: "ram" }));
    }
    return true;
  }

  async #start(input: StreamInput): Promise<void> {
    const header = await input.parse((reader) => decodeSectionHeader(afterType(reader)));
    if (header.name === "ram") {
      this.#ramId = header.id;
      let leftBytes = await input.parse(decodeBlockListHead);
      const dialect = { ignoreShared: false, postcopyPageSizes: this.#advice };
      while (leftBytes > 0) {
        const entry = await input.parse((reader) => decodeBlockListEntry(reader, dialect));
        leftBytes -= entry.usedLength;
        this.blocks.push({
          name: entry.name,
          memory: Buffer.alloc(entry.usedLength),
          hostPageSize: entry.hostPageSize ?? PAGE,
          received: new PageBitmap(entry.usedLength / PAGE),
        });
      }
      await this.#readRecords(input, "main");
    } else await input.parse((reader) => reader.view(24));
    await input.parse((reader) => decodeSectionFooter(reader, header));
  }

  #advice = 0;

  async #command(input: StreamInput): Promise<void> {
    const { command, data } = await input.parse((reader) => decodeCommand(afterType(reader)));
    if (command === MigrationCommand.PING) {
      this.#say((writer) => encodePong(writer, new DataView(data.buffer, data.byteOffset).getUint32(0)));
    } else if (command === MigrationCommand.POSTCOPY_ADVISE) {
      this.#advice = decodePostcopyAdvise(data)?.hostPageSizes ?? 0;
    } else if (command === MigrationCommand.POSTCOPY_RAM_DISCARD) {
      for (const { start, length } of decodeRamDiscard(data).ranges) {
        const block = this.#named(decodeRamDiscard(data).block);
        block.memory.fill(0, start, start + length);
        block.received.clearRange(start / PAGE, (start + length) / PAGE);
      }
      this.#state = "discarded";
    } else if (command === MigrationCommand.PACKAGED) {
      const length = decodePackaged(data);
      this.#takePackage(await input.parse((reader) => reader.view(length).slice()));
    } else if (command === MigrationCommand.RECV_BITMAP) {
      const { name, received } = this.#named(decodeReceivedBitmapCommand(data));
      this.#say((writer) => encodeReceivedBitmap(writer, name, received.toBytes()));
    } else if (command === MigrationCommand.POSTCOPY_RESUME) this.#resume();
    else assert(command === MigrationCommand.OPEN_RETURN_PATH, `command ${command}`);
  }

  #takePackage(bytes: Uint8Array): void {
    assert(this.#state === "discarded", "nothing was discarded: QEMU would wait for itself");
    const text = Buffer.from(bytes).toString("hex");
    assert(text.startsWith("0800040000"), "the package begins with LISTEN");
    assert(text.endsWith("080002000400000003" + "0800050000"), "the package ends with PING 3 and RUN");
    this.packageBytes = bytes.subarray(5, -14);
    this.#state = "listening";
    void this.#loadDevices().catch((error: unknown) => {
      this.#failure ??= asError(error);
      this.#changed();
    });
  }

  /** What QEMU's main thread does, beside the thread that reads pages. */
  async #loadDevices(): Promise<void> {
    if (this.#options.hasPreempt) await this.#preemptConnected;
    for (let touch = 0; touch < this.#options.touchesOfDevices; touch++) {
      const key = this.#touch();
      while (key !== undefined && this.#waiting.has(key) && !this.#isOver) await this.#change();
    }
    this.#state = "running";
    this.#say((writer) => encodePong(writer, 3));
    this.#runGuest();
  }

  #resume(): void {
    this.#say(encodeResumeAck);
    this.#lastAsked = undefined;
    for (const place of this.#waiting.values()) this.#ask(place);
    if (this.#options.hasPreempt) void this.#preemptConnected.then(() => this.#runGuest());
    else this.#runGuest();
  }

  #runGuest(): void {
    while (this.#waiting.size < this.#options.mostWaiting && this.#touchesLeft > 0) {
      this.#touchesLeft -= 1;
      this.#touch();
    }
  }

  /** Touches a page anywhere, and asks for it when it is missing. */
  #touch(): string | undefined {
    const { random } = this.#options;
    const block = random.below(this.blocks.length);
    const { hostPageSize, memory, received } = this.blocks[block]!;
    const start = random.below(memory.length / hostPageSize) * hostPageSize;
    if (received.has(start / PAGE)) return undefined;
    const key = `${block}:${start}`;
    this.#waiting.set(key, { block, start });
    this.#ask({ block, start });
    return key;
  }

  #ask({ block, start }: { readonly block: number; readonly start: number }, isStray = false): void {
    const { name, hostPageSize } = this.blocks[block]!;
    this.requests += 1;
    if (isStray) this.#lastAsked = name;
    if (this.#state === "ended") this.lateRequests += 1;
    const named = name === this.#lastAsked ? undefined : name;
    this.#lastAsked = name;
    this.#say((writer) => encodePageRequest(writer, { block: named, start, length: hostPageSize }));
  }

  #say(encode: (writer: ByteWriter) => void): void {
    const writer = new ByteWriter();
    encode(writer);
    const main = this.#main;
    this.#writing = this.#writing.then(() => main?.write(writer.finish()));
    this.#writing.catch(() => undefined);
  }

  async #readPreempt(channel: ByteChannel): Promise<void> {
    const input = new StreamInput(channel);
    // It may stand before the block list has come; its first record does not.
    await input.peek();
    await this.#readRecords(input, "preempt");
  }

  /** Reads records up to an end. */
  async #readRecords(input: StreamInput, channel: "main" | "preempt"): Promise<void> {
    const bytes = Buffer.alloc(Math.max(PAGE, ...this.blocks.map(({ hostPageSize }) => hostPageSize)));
    const temporary: TemporaryPage = { place: undefined, pages: 0, bytes };
    const sink: RamRecordSink = {
      page: (block, address, source, at) =>
        this.#take(temporary, channel, block, address, Buffer.from(source.subarray(at, at + PAGE))),
      zeroPage: (block, address) => this.#take(temporary, channel, block, address, undefined),
      xbzrlePage: () => assert(false, "a delta in postcopy"),
      compressedPage: () => assert(false, "a compressed page in postcopy"),
    };
    const decoder = new RamRecordDecoder(
      this.blocks.map(({ name, memory }) => ({ name, usedLength: memory.length })),
      PAGE,
      sink,
    );
    while (true) {
      input.position = decoder.decode(input.bytes, input.position, input.end, input.baseOffset);
      if (decoder.stop === "end-of-section") break;
      assert(await input.fill(), "the channel ended inside the records");
    }
    assert(temporary.pages === 0, "a host page that is not whole");
  }

  #take(
    temporary: TemporaryPage,
    channel: "main" | "preempt",
    index: number,
    address: number,
    content: Buffer | undefined,
  ): void {
    const block = this.blocks[index]!;
    // Transparent huge pages would bring a loaded page's neighbours into being.
    assert(this.#state !== "precopy", "no page comes before the first discard");
    if (this.#state === "discarded") {
      assert(!block.received.has(address / PAGE), "a page that comes twice before the guest runs");
      content?.copy(block.memory, address);
      block.received.set(address / PAGE);
      this.precopyPages += 1;
      return;
    }
    const start = address - (address % block.hostPageSize);
    temporary.place ??= { block: index, start };
    assert(temporary.place.block === index && temporary.place.start === start, "two host pages mixed");
    assert(address === start + temporary.pages * PAGE, "target pages out of order");
    temporary.bytes.fill(0, temporary.pages * PAGE, (temporary.pages + 1) * PAGE);
    content?.copy(temporary.bytes, temporary.pages * PAGE);
    temporary.pages += 1;
    if (temporary.pages * PAGE < block.hostPageSize) return;
    if (channel === "preempt") assert(this.#waiting.has(`${index}:${start}`), "nobody waits for this page");
    assert(!block.received.has(start / PAGE), `page ${start / PAGE} of ${block.name} came twice`);
    temporary.bytes.copy(block.memory, start, 0, block.hostPageSize);
    block.received.setRange(start / PAGE, (start + block.hostPageSize) / PAGE);
    temporary.place = undefined;
    temporary.pages = 0;
    if (this.#waiting.delete(`${index}:${start}`) && this.#state !== "listening") this.#runGuest();
    this.#changed();
  }

  async #end(): Promise<void> {
    assert(this.#state === "running", "the stream ended before the devices were loaded");
    this.#state = "ended";
    const { hasPreempt, readsPreemptToItsEnd } = this.#options;
    if (hasPreempt && readsPreemptToItsEnd === true) await this.#preempt;
    else {
      // Who waits now waits for a page that nobody sends, unless there is a channel for it.
      this.#runGuest();
      while (this.#waiting.size > 0 && this.#failure === undefined) await this.#change();
    }
    if (this.#failure !== undefined) throw this.#failure;
    this.#touchesLeft = 0;
    this.#say((writer) => encodeShut(writer, 0));
    await this.#writing;
  }

  get #isOver(): boolean {
    return this.#failure !== undefined;
  }

  #named(name: string): Block {
    const block = this.blocks.find((candidate) => candidate.name === name);
    assert(block !== undefined, `no block ${name}`);
    return block;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  #changed(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}

function isBreak(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "connection-closed";
}
