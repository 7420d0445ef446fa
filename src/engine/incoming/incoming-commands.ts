import type { ByteSink } from "../../channels/index.js";
import { FormatError } from "../../errors/index.js";
import {
  ByteReader,
  ByteWriter,
  type Command,
  decodePackaged,
  decodePostcopyAdvise,
  decodeRamDiscard,
  encodeCommand,
  MigrationCommand,
} from "../../wire/index.js";
import type { StreamInput } from "../stream-input.js";
import type { StreamPlace } from "./postcopy/take-over.js";
import type { ReceiveOptions } from "./receive-options.js";
import { sendPong } from "./return-path-answers.js";

/** What commands need to know of the stream in which they stand. */
export interface CommandContext {
  readonly input: StreamInput;
  readonly options: Pick<ReceiveOptions, "postcopy" | "returnPath">;
  /** Takes a command that is of no concern here. */
  takeVerbatim(bytes: Uint8Array, offset: number): void;
  /** How the stream goes on; undefined before the block list. */
  place(): Omit<StreamPlace, "offset" | "unread"> | undefined;
}

/** A package is read in pieces: nobody has memory set aside because a number says so. */
const PACKAGE_PIECE_BYTES = 1 << 20;

/** Does what the commands of a migration say. */
export class IncomingCommands {
  readonly #context: CommandContext;
  #returnPath: ByteSink | undefined;
  #postcopyPageSizes = 0;
  #advised = false;
  #isTaken = false;

  constructor(context: CommandContext) {
    this.#context = context;
  }

  /** Where the source listens; undefined when it does not. */
  get returnPath(): ByteSink | undefined {
    return this.#returnPath;
  }

  /** The OR of all host page sizes, of which the block list depends; 0 without POSTCOPY_ADVISE. */
  get postcopyPageSizes(): number {
    return this.#postcopyPageSizes;
  }

  /** Whether somebody else reads the stream by now. */
  get isTaken(): boolean {
    return this.#isTaken;
  }

  /** @param offset Where the command stands. */
  async run({ command, data }: Command, offset: number): Promise<void> {
    const { options, input } = this.#context;
    switch (command) {
      case MigrationCommand.OPEN_RETURN_PATH:
        this.#returnPath = options.returnPath;
        return;
      case MigrationCommand.PING: {
        const value = new ByteReader(data, offset).u32();
        if (this.#returnPath !== undefined) await sendPong(this.#returnPath, value);
        return;
      }
      case MigrationCommand.POSTCOPY_ADVISE:
        this.#advise(data, offset);
        return;
      case MigrationCommand.POSTCOPY_RAM_DISCARD:
        if (options.postcopy === undefined || !this.#advised) break;
        options.postcopy.discard(decodeRamDiscard(data, offset), offset);
        return;
      case MigrationCommand.PACKAGED: {
        if (options.postcopy === undefined || !this.#advised) break;
        const place = this.#context.place();
        if (place === undefined)
          throw new FormatError("malformed", "Postcopy begins before RAM does", { offset });
        const bytes = await readPackage(input, decodePackaged(data, offset));
        const packageOffset = input.offset - bytes.length;
        // The window is not read any more.
        const unread = input.bytes.subarray(input.position, input.end);
        this.#isTaken = true;
        await options.postcopy.take(bytes, packageOffset, { ...place, unread, offset: input.offset });
        return;
      }
      case MigrationCommand.SWITCHOVER_START: {
        const writer = new ByteWriter();
        encodeCommand(writer, { command, data });
        this.#context.takeVerbatim(writer.finish(), offset);
        return;
      }
    }
    throw new FormatError(
      "unsupported",
      "The source went over to a way of migrating that ramport cannot take",
      { offset, actual: `command ${command}`, hint: "turn postcopy and COLO off at the source" },
    );
  }

  #advise(data: Uint8Array, offset: number): void {
    if (this.#advised) {
      throw new FormatError("malformed", "Postcopy is announced twice", { offset });
    }
    const advice = decodePostcopyAdvise(data, offset);
    if (advice === undefined) return;
    this.#advised = true;
    this.#postcopyPageSizes = advice.hostPageSizes;
    // Postcopy may follow, and need not: until then it is the block list alone that depends on it.
    this.#context.options.postcopy?.advise(advice, offset);
  }
}

async function readPackage(input: StreamInput, length: number): Promise<Uint8Array> {
  let bytes = new Uint8Array(Math.min(length, PACKAGE_PIECE_BYTES));
  let done = 0;
  while (done < length) {
    if (input.available === 0 && !(await input.fill())) {
      throw new FormatError("truncated", "The stream ends in the middle of the packaged device state", {
        offset: input.endOffset,
        expected: `${length} bytes`,
        actual: `${done} bytes`,
      });
    }
    const count = Math.min(input.available, length - done);
    if (done + count > bytes.length) {
      const larger = new Uint8Array(Math.min(length, Math.max(bytes.length * 2, done + count)));
      larger.set(bytes);
      bytes = larger;
    }
    bytes.set(input.bytes.subarray(input.position, input.position + count), done);
    input.position += count;
    done += count;
  }
  return bytes;
}
