import type { ByteSource } from "../../../channels/index.js";
import { asError } from "../../../errors/as-error.js";
import { assert, FormatError, MachineError } from "../../../errors/index.js";
import {
  afterType,
  ByteReader,
  decodeCommand,
  decodeReceivedBitmapCommand,
  decodeSectionFooter,
  MigrationCommand,
  RAM_SECTION,
  RamRecordDecoder,
  SectionType,
} from "../../../wire/index.js";
import type { PostcopyConnection, PostcopyMemory, PostcopyStart } from "../../postcopy/postcopy-host.js";
import { StreamInput } from "../../stream-input.js";
import { lastWord, REFUSED } from "../return-path-answers.js";
import { HostPages } from "./host-pages.js";
import type { MissingPages } from "./missing-pages.js";
import type { PageRequests } from "./page-requests.js";
import { PrefixedSource } from "./prefixed-source.js";
import { ReturnPathWriter } from "./return-path-writer.js";

const CLOSED = "The source closed the connection before all of guest memory had come";

/** What a connection's pages and answers are for. */
export interface ConnectionContext {
  readonly start: Pick<PostcopyStart, "footers" | "ramSectionId" | "targetPageSize">;
  readonly missing: MissingPages;
  readonly requests: PageRequests;
  readonly memory: PostcopyMemory;
  /** The first connection goes on where others stopped reading; later ones begin. */
  readonly at?: Pick<PostcopyStart, "currentBlock" | "unread" | "offset">;
  /** Whether the guest is still the source's: one that fails then says so. */
  readonly refuses: () => boolean;
  /** Set while the source is to say that it resumes: called when it does. */
  readonly onResume?: () => void;
}

/** Reads one connection of a postcopy migration, with the second one that it may have, until all has come or it breaks. */
export class ConnectionReader {
  readonly returnPath: ReturnPathWriter;
  readonly #connection: PostcopyConnection;
  readonly #context: ConnectionContext;
  readonly #input: StreamInput;
  readonly #pages: HostPages;
  readonly #preemptPages: HostPages | undefined;
  readonly #decoder: RamRecordDecoder;
  readonly #broken: Promise<never>;
  #break: (error: unknown) => void = () => undefined;
  #preempt: { readonly source: ByteSource; readonly input: StreamInput } | undefined;
  #awaitsResume: boolean;
  #isOver = false;
  #failure: Error | undefined;

  constructor(connection: PostcopyConnection, context: ConnectionContext) {
    const { start, missing, requests, memory, at } = context;
    this.#connection = connection;
    this.#context = context;
    this.#awaitsResume = context.onResume !== undefined;
    const { unread = new Uint8Array(), offset = 0 } = at ?? {};
    this.#input = new StreamInput(new PrefixedSource(unread, connection.main), offset);
    const placed = requests.placed.bind(requests);
    this.#pages = new HostPages(missing, memory, placed);
    this.#preemptPages =
      connection.preempt === undefined ? undefined : new HostPages(missing, memory, placed);
    this.#decoder = new RamRecordDecoder(
      missing.blocks,
      start.targetPageSize,
      this.#pages,
      at?.currentBlock ?? -1,
    );
    this.#broken = new Promise((_, reject) => (this.#break = reject));
    // It may break before or after anybody waits for it.
    this.#broken.catch(() => undefined);
    this.returnPath = new ReturnPathWriter(connection.returnPath, (error) => this.break(error));
  }

  /** Target pages that came over it. */
  get pages(): { readonly normal: number; readonly zero: number } {
    const main = this.#pages.counts;
    const preempt = this.#preemptPages?.counts;
    return { normal: main.normal + (preempt?.normal ?? 0), zero: main.zero + (preempt?.zero ?? 0) };
  }

  get receivedBytes(): number {
    return this.#input.receivedBytes + (this.#preempt?.input.receivedBytes ?? 0);
  }

  /** What broke it, as soon as that is known. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Ends {@link run} with the error. */
  break(error: unknown): void {
    this.#failure ??= asError(error);
    this.#break(error);
  }

  /**
   * Reads until all has come. The connection is open then; when it fails it is closed, and nothing more is placed.
   *
   * @throws What broke it: FormatError, MachineError.
   */
  async run(): Promise<void> {
    const preempt = this.#readPreempt();
    preempt.catch((error: unknown) => this.break(error));
    const main = this.#readMain();
    try {
      await Promise.race([this.#broken, this.#allHasCome(main, preempt)]);
      this.#isOver = true;
    } catch (error) {
      this.#failure ??= asError(error);
      this.#isOver = true;
      if (this.#context.refuses()) {
        this.returnPath.shut(REFUSED);
        await lastWord(this.returnPath.flushed());
      }
      await this.close();
      // A read that still ends finds that it is over, and places nothing.
      throw isCutOff(error) ? new MachineError("connection-closed", CLOSED, {}, error) : error;
    }
  }

  /** Closes all of it. */
  async close(): Promise<void> {
    this.#isOver = true;
    const { main, returnPath, preempt } = this.#connection;
    // One that is still to come is closed when it does.
    preempt?.then(
      (source) => source.close(),
      () => undefined,
    );
    await Promise.all([main.close(), returnPath.close()]);
  }

  async #allHasCome(main: Promise<void>, preempt: Promise<void>): Promise<void> {
    await main;
    if (this.#connection.preempt === undefined) return;
    // Pages that were asked for may be on their way still; nothing else comes there.
    const { requests } = this.#context;
    await Promise.race([requests.allPlaced(), preempt]);
    if (requests.open === 0) return;
    throw new FormatError("inconsistent", "Guest memory ends without pages that were asked for", {
      offset: this.#input.offset,
      section: RAM_SECTION.name,
      actual: `${requests.open} pages`,
    });
  }

  /** The second connection has nothing but records. */
  async #readPreempt(): Promise<void> {
    const pages = this.#preemptPages;
    if (pages === undefined) return;
    const source = await this.#connection.preempt;
    assert(source !== undefined, "a second connection");
    if (this.#isOver) return;
    const input = new StreamInput(source);
    this.#preempt = { source, input };
    const { missing, start } = this.#context;
    await this.#readRecords(input, new RamRecordDecoder(missing.blocks, start.targetPageSize, pages), pages);
    pages.checkWhole(input.offset);
  }

  async #readMain(): Promise<void> {
    const input = this.#input;
    let ended = false;
    while (true) {
      const { offset } = input;
      const type = await input.peek();
      if (type === undefined) throw new MachineError("connection-closed", CLOSED, { offset });
      if (type === SectionType.EOF && ended) {
        input.position += 1;
        return;
      }
      if (type === SectionType.COMMAND) {
        await this.#runCommand();
        await this.returnPath.room();
      } else if (!ended && (type === SectionType.PART || type === SectionType.END)) {
        await this.#readPart(offset);
        ended = type === SectionType.END;
        if (ended) this.#pages.checkWhole(offset);
      } else {
        throw new FormatError("unsupported", "Something that cannot stand there came after postcopy began", {
          offset,
          expected: ended ? "the end of the stream" : "guest memory",
          actual: `0x${type.toString(16)}`,
        });
      }
    }
  }

  async #readPart(offset: number): Promise<void> {
    const { start } = this.#context;
    const id = await this.#input.parse((reader) => afterType(reader).u32());
    if (id !== start.ramSectionId) {
      throw new FormatError("unsupported", "A device that is not RAM came after postcopy began", {
        offset,
        expected: `section ${start.ramSectionId}`,
        actual: `section ${id}`,
      });
    }
    await this.#readRecords(this.#input, this.#decoder, this.#pages);
    if (!start.footers) return;
    await this.#input.parse((reader) => decodeSectionFooter(reader, { id, name: RAM_SECTION.name }));
  }

  /** The hot loop: whole records out of the window, synchronously; what they filled is in place before anything else runs. */
  async #readRecords(input: StreamInput, decoder: RamRecordDecoder, pages: HostPages): Promise<void> {
    while (true) {
      if (this.#isOver) throw new MachineError("connection-closed", CLOSED);
      input.position = decoder.decode(input.bytes, input.position, input.end, input.baseOffset);
      pages.flush();
      if (decoder.stop === "end-of-section") return;
      if (decoder.stop === "multifd-flush") {
        throw new FormatError("unsupported", "The pages of this migration travel over multifd channels", {
          offset: input.offset,
          section: RAM_SECTION.name,
          hint: "turn the multifd capability off at the source",
        });
      }
      if (!(await input.fill())) {
        throw new MachineError("connection-closed", CLOSED, { offset: input.endOffset });
      }
    }
  }

  async #runCommand(): Promise<void> {
    const { offset } = this.#input;
    const { command, data } = await this.#input.parse((reader) => decodeCommand(afterType(reader)));
    if (this.#isOver) return;
    switch (command) {
      case MigrationCommand.OPEN_RETURN_PATH:
        return;
      case MigrationCommand.PING:
        this.returnPath.pong(new ByteReader(data, offset).u32());
        return;
      case MigrationCommand.RECV_BITMAP:
        if (!this.#awaitsResume) break;
        this.#sendBitmap(decodeReceivedBitmapCommand(data, offset), offset);
        return;
      case MigrationCommand.POSTCOPY_RESUME:
        if (!this.#awaitsResume) break;
        this.#awaitsResume = false;
        this.returnPath.resumeAck();
        this.#context.onResume?.();
        return;
    }
    throw new FormatError("inconsistent", "A command came where postcopy cannot have it", {
      offset,
      actual: `command ${command}`,
    });
  }

  #sendBitmap(name: string, offset: number): void {
    const block = this.#context.missing.blocks.find((one) => one.name === name);
    if (block?.received === undefined) {
      throw new FormatError(
        "inconsistent",
        "The source asks for pages of a RAM block that does not migrate",
        {
          offset,
          block: name,
        },
      );
    }
    this.returnPath.receivedBitmap(name, block.received.toBytes());
  }
}

/** A structure that is cut off is a connection that was. */
function isCutOff(error: unknown): boolean {
  return error instanceof FormatError && error.code === "truncated";
}
