import type { ByteSource } from "../../channels/index.js";
import { assert, CancelledError, FormatError, throwIfAborted } from "../../errors/index.js";
import {
  BlockListBuilder,
  type Configuration,
  afterType,
  decodeBlockListEntry,
  decodeBlockListHead,
  decodeCommand,
  decodeConfiguration,
  decodeFileHeader,
  decodeSectionHeader,
  decodeStreamTail,
  DEFAULT_TARGET_PAGE_SIZE,
  Limits,
  MigrationCommand,
  RAM_SECTION,
  type RamBlockEntry,
  RamRecordDecoder,
  type SectionHeader,
  SectionType,
  targetPageSizeOf,
} from "../../wire/index.js";
import { systemClock } from "../clock.js";
import { IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY } from "../mapped-ram/capability.js";
import type { MigrationTarget, RamSectionType } from "../migration-target.js";
import { checkUuid, type StartedChannels, startChannels } from "../multifd/start-channels.js";
import { ProgressMeter } from "../progress.js";
import { checkRamVersion } from "../ram-section.js";
import { StreamInput } from "../stream-input.js";
import { IncomingCommands } from "./incoming-commands.js";
import { PageIndex } from "./page-index.js";
import type { ReceiveOptions, ReceiveResult } from "./receive-options.js";
import { readTail } from "./read-tail.js";
import { sendRefusal, sendShut } from "./return-path-answers.js";
import { SectionEnds } from "./section-ends.js";
import { type StreamHead, StreamFacts } from "./stream-facts.js";
import { checkPages, findTargetPageSize } from "./target-page-size.js";

/**
 * Reads one precopy migration stream to its end and hands it to a target.
 *
 * @throws FormatError for anything that the stream must not hold; CancelledError when the signal fires; whatever source
 *   and target throw. The target is then incomplete and must be thrown away.
 */
export async function receiveMigration(
  source: ByteSource,
  target: MigrationTarget,
  options: ReceiveOptions = {},
): Promise<ReceiveResult> {
  const { signal } = options;
  throwIfAborted(signal);
  const migration = new IncomingMigration(source, target, options);
  const abort = (): void => migration.abort(new CancelledError(undefined, signal?.reason));
  signal?.addEventListener("abort", abort, { once: true });
  try {
    return await migration.run();
  } catch (error) {
    await migration.refuse();
    migration.abort(error);
    throw signal?.aborted === true
      ? new CancelledError(undefined, error)
      : migration.failureOfChannels(error);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/**
 * Reads the head of a stream: everything up to where its pages begin. The source is left somewhere behind that.
 *
 * @throws FormatError as {@link receiveMigration} does.
 */
export async function readMigrationHead(
  source: ByteSource,
  options: Pick<ReceiveOptions, "startOffset" | "targetPageSize"> = {},
): Promise<StreamHead> {
  const facts = new StreamFacts(new PageIndex());
  await new IncomingMigration(source, facts, options).readHead();
  if (facts.head === undefined) throw new FormatError("malformed", "The stream has no RAM section");
  return facts.head;
}

class IncomingMigration {
  readonly #source: ByteSource;
  readonly #input: StreamInput;
  readonly #target: MigrationTarget;
  readonly #options: ReceiveOptions;
  readonly #meter: ProgressMeter;
  readonly #sections: SectionEnds;
  readonly #commands: IncomingCommands;
  #configuration: Configuration | undefined;
  #ram: { readonly header: SectionHeader; readonly blocks: readonly RamBlockEntry[] } | undefined;
  #decoder: RamRecordDecoder | undefined;
  #ramPartSeen = false;
  #ramEnded = false;
  /** Sections that began, and commands. */
  #begun = 0;
  #channels: StartedChannels | undefined;

  constructor(source: ByteSource, target: MigrationTarget, options: ReceiveOptions) {
    this.#source = source;
    this.#input = new StreamInput(source, options.startOffset);
    this.#target = target;
    this.#options = options;
    this.#meter = new ProgressMeter(options.onProgress);
    this.#sections = new SectionEnds(this.#input, target);
    this.#commands = new IncomingCommands({
      input: this.#input,
      options,
      takeVerbatim: (bytes, offset) => this.#sections.take(bytes, offset),
      place: () =>
        this.#ram &&
        this.#decoder && {
          ramSectionId: this.#ram.header.id,
          footers: this.#sections.framing.footers,
          currentBlock: this.#decoder.currentBlock,
        },
    });
  }

  async run(): Promise<ReceiveResult> {
    const input = this.#input;
    await this.readHead();
    while (!this.#ramEnded && !this.#commands.isTaken) await this.#readSection();
    if (this.#commands.isTaken) return this.#result(() => Promise.resolve());
    const { framing } = this.#sections;
    const { describesAllDevices, clock } = this.#options;
    const bytes = await readTail(input, {
      framing,
      sourceWaits: this.#commands.returnPath !== undefined,
      describesAllDevices: describesAllDevices ?? false,
      clock: clock ?? systemClock,
    });
    const offset = input.endOffset - bytes.length;
    const tail = decodeStreamTail(bytes, offset, framing);
    this.#target.tail(tail, bytes);
    const { returnPath } = this.#commands;
    return this.#result(() => (returnPath === undefined ? Promise.resolve() : sendShut(returnPath)));
  }

  #result(confirm: () => Promise<void>): ReceiveResult {
    if (this.#ram === undefined) throw new FormatError("malformed", "The stream has no RAM section");
    const { blocks } = this.#ram;
    return { configuration: this.#configuration, blocks, receivedBytes: this.#receivedBytes(), confirm };
  }

  /** Tells a source that listens that its guest is its own; whoever took the stream over does so itself. */
  async refuse(): Promise<void> {
    const { returnPath, isTaken } = this.#commands;
    if (returnPath !== undefined && !isTaken) await sendRefusal(returnPath);
  }

  /** Ends what waits for more to come. */
  abort(error: unknown): void {
    void this.#source.close();
    this.#channels?.receiver.abort(error);
  }

  /** When a channel fails, what is seen here is only that it ends. */
  failureOfChannels(error: unknown): unknown {
    const failure = this.#channels?.receiver.failure;
    return failure === undefined ? error : failure.error;
  }

  /** Reads up to where the pages begin: the block list, and the devices that come early. */
  async readHead(): Promise<void> {
    const input = this.#input;
    await input.parse(decodeFileHeader);
    this.#configuration = await this.#readConfiguration();
    checkUuid(this.#options.multifd, this.#configuration);
    this.#target.configuration(this.#configuration);
    // Once the stream is taken over, looking at what follows would take it from who reads it then.
    while (!this.#commands.isTaken && (this.#ram === undefined || !(await this.#atLaterPart()))) {
      if (this.#ramEnded) return;
      await this.#readSection();
    }
  }

  async #atLaterPart(): Promise<boolean> {
    const type = await this.#input.peek();
    return type === SectionType.PART || type === SectionType.END;
  }

  async #readConfiguration(): Promise<Configuration | undefined> {
    const type = await this.#input.peek();
    if (type === undefined) {
      throw new FormatError("truncated", "The stream ends behind its first bytes", {
        offset: this.#input.offset,
      });
    }
    if (type !== SectionType.CONFIGURATION) return undefined;
    return this.#input.parse((reader) => decodeConfiguration(afterType(reader)));
  }

  async #readSection(): Promise<void> {
    const input = this.#input;
    const { offset } = input;
    const type = await input.peek();
    switch (type) {
      case SectionType.START:
      case SectionType.FULL:
        this.#countBegun(offset);
        await this.#readNamedSection(type, offset);
        return;
      case SectionType.PART:
      case SectionType.END:
        await this.#readLaterPart(type);
        return;
      case SectionType.COMMAND: {
        const command = await input.parse((reader) => decodeCommand(afterType(reader)));
        // There are as many of these as memory is in pieces; nothing is kept of them.
        if (command.command !== MigrationCommand.POSTCOPY_RAM_DISCARD) this.#countBegun(offset);
        await this.#commands.run(command, offset);
        return;
      }
      case SectionType.EOF:
        throw new FormatError("malformed", "The stream ends before its RAM section does", { offset });
      case undefined:
        throw new FormatError("truncated", "The stream ends before its RAM section does", { offset });
      default:
        throw new FormatError("malformed", "Something that is no section stands in the stream", {
          offset,
          actual: `0x${type.toString(16)}`,
        });
    }
  }

  #countBegun(offset: number): void {
    if (++this.#begun <= Limits.sections) return;
    throw new FormatError("limit-exceeded", `There are more than ${Limits.sections} sections`, { offset });
  }

  async #readNamedSection(type: number, offset: number): Promise<void> {
    if (type === SectionType.FULL && this.#ramPartSeen) {
      // A background snapshot has no END. Early devices (virtio-mem) come before the first PART.
      this.#ramEnded = true;
      return;
    }
    const start = await this.#input.peekParse((reader) => decodeSectionHeader(afterType(reader)));
    if (start.value.name === RAM_SECTION.name) {
      this.#input.position += start.length;
      await this.#readRamStart(type, start.value, offset);
    } else await this.#sections.readOpaque(start.value, start.length);
  }

  async #readLaterPart(type: RamSectionType): Promise<void> {
    const start = await this.#input.peekParse((reader) => afterType(reader).u32());
    if (start.value === this.#ram?.header.id) {
      this.#input.position += start.length;
      await this.#readRamRecords(type);
    } else await this.#sections.readOpaque({ id: start.value, name: `number ${start.value}` }, start.length);
  }

  async #readRamStart(type: number, header: SectionHeader, offset: number): Promise<void> {
    const place = { offset, section: RAM_SECTION.name };
    if (type !== SectionType.START || this.#ram !== undefined) {
      throw new FormatError("malformed", "The RAM section begins in a way that it cannot", place);
    }
    checkRamVersion(header, offset);
    const capabilities = this.#configuration?.capabilities ?? [];
    if (capabilities.includes(MAPPED_RAM_CAPABILITY)) {
      throw new FormatError("unsupported", "This is a mapped-ram file already, not a stream", {
        ...place,
        hint: "use it as it is",
      });
    }
    const dialect = {
      ignoreShared: capabilities.includes(IGNORE_SHARED_CAPABILITY),
      postcopyPageSizes: this.#commands.postcopyPageSizes,
    };
    const list = new BlockListBuilder(await this.#input.parse(decodeBlockListHead));
    while (!list.complete) {
      const entryOffset = this.#input.offset;
      list.add(await this.#input.parse((reader) => decodeBlockListEntry(reader, dialect)), entryOffset);
    }
    const pageSize = await this.#targetPageSize(list.blocks, header.id);
    checkPages(list.blocks, pageSize, offset);
    this.#ram = { header, blocks: list.blocks };
    this.#sections.ramHasBegun = true;
    const sink = this.#target.ramStart(header, list.blocks, pageSize, offset);
    this.#decoder = new RamRecordDecoder(list.blocks, pageSize, sink);
    this.#channels =
      this.#options.multifd &&
      startChannels(this.#options.multifd, this.#configuration, {
        blocks: list.blocks,
        pageSize,
        sink,
        onFailure: () => void this.#source.close(),
        onPacket: () => this.#reportProgress(),
      });
    await this.#readRamRecords(SectionType.START);
  }

  /** What the stream or the caller says; else what the first records show. */
  async #targetPageSize(blocks: readonly RamBlockEntry[], ramSectionId: number): Promise<number> {
    const known = targetPageSizeOf(this.#configuration) ?? this.#options.targetPageSize;
    // The main channel of a multifd migration has no pages to show it.
    if (this.#options.multifd !== undefined) return known ?? DEFAULT_TARGET_PAGE_SIZE;
    return known ?? findTargetPageSize(this.#input, blocks, ramSectionId);
  }

  /** The hot loop: whole records out of the window, synchronously, until the section's EOS. */
  async #readRamRecords(type: RamSectionType): Promise<void> {
    const input = this.#input;
    const decoder = this.#decoder;
    const ram = this.#ram;
    assert(decoder !== undefined && ram !== undefined, "RAM records before the block list");
    while (true) {
      input.position = decoder.decode(input.bytes, input.position, input.end, input.baseOffset);
      if (decoder.stop === "end-of-section") break;
      if (decoder.stop === "multifd-flush") {
        await this.#flushChannels();
        continue;
      }
      if (!(await input.fill())) {
        throw new FormatError("truncated", "The stream ends in the middle of guest memory", {
          offset: input.endOffset,
          section: RAM_SECTION.name,
        });
      }
      this.#reportProgress();
    }
    await this.#channels?.sync.endOfSection(type);
    this.#target.ramSectionEnd(type, await this.#sections.readFooter(ram.header));
    if (type === SectionType.PART) this.#ramPartSeen = true;
    if (type === SectionType.END) this.#ramEnded = true;
  }

  async #flushChannels(): Promise<void> {
    if (this.#channels !== undefined) return this.#channels.sync.flush();
    throw new FormatError("unsupported", "The pages of this migration travel over multifd channels", {
      offset: this.#input.offset,
      section: RAM_SECTION.name,
      hint: "receive it with --channels, or turn the multifd capability off at the source",
    });
  }

  #receivedBytes(): number {
    // Who takes the stream over counts what was read too far.
    const ahead = this.#commands.isTaken ? this.#input.available : 0;
    return this.#input.receivedBytes - ahead + (this.#channels?.receiver.receivedBytes ?? 0);
  }

  #reportProgress(): void {
    this.#meter.update(this.#receivedBytes(), () => ({
      phase: "receiving",
      totalBytes: this.#ram?.blocks.reduce((sum, block) => sum + block.usedLength, 0) ?? 0,
    }));
  }
}
