import { createHash } from "node:crypto";
import { mkdirSync, rmdirSync, statSync } from "node:fs";
import path from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";

import { OutputFile, type OutputFileOptions } from "../channels/output-file.js";
import { errnoCode, systemError } from "../channels/system-error.js";
import type { PlacedBlock } from "../engine/mapped-ram/placed-pages.js";
import { type ProgressListener, ProgressMeter } from "../engine/progress.js";
import { FormatError, throwIfAborted, UsageError } from "../errors/index.js";
import type { RamBlockEntry } from "../wire/index.js";
import { dataRanges } from "./data-ranges.js";

/** What to extract, and where to: one block into a file, or each block into a file of its own in a folder. */
export type ExtractTarget = { readonly block: string; readonly path: string } | { readonly folder: string };

/** A block's file that was written: plain data, ready for JSON. */
export interface ExtractedBlock {
  /** Raw: may hold any character. */
  readonly name: string;
  /** The file, absolute. */
  readonly path: string;
  /** Bytes of the block, and of the file. */
  readonly bytes: number;
  /** What the file takes on its device: pages without content are holes. */
  readonly allocatedBytes: number;
  /** Of the whole content, in hexadecimal; only where it was asked for. */
  readonly sha256?: string;
}

/** File systems take names of 255 bytes; an unfinished file's is longer than the finished one's. */
const LONGEST_FILE_NAME = 240;
const HASH_BYTES = 1 << 20;

/**
 * A block's name as a file name: letters, digits and `_@.-` stay, what else it has becomes percent signs with two digits
 * each, and so does a dot or dash in front. No two names become the same one, and decodeURIComponent() gives a name back.
 *
 * @throws FormatError for a name that no file can have: an empty or very long one.
 */
export function blockFileName(block: string): string {
  const encoded = Array.from(new TextEncoder().encode(block), (byte, index) => {
    const character = String.fromCharCode(byte);
    return (index === 0 ? /[A-Za-z0-9_@]/ : /[A-Za-z0-9_@.-]/).test(character)
      ? character
      : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }).join("");
  if (encoded !== "" && encoded.length <= LONGEST_FILE_NAME) return encoded;
  throw new FormatError("unsupported", "The name of a RAM block makes no file name", {
    block,
    hint: "extract this block alone, into a file that you name",
  });
}

/** The files that blocks are extracted into: all of them come into being, or none. */
export class BlockFiles {
  readonly #target: ExtractTarget;
  readonly #options: OutputFileOptions;
  /** By the blocks' place in the list. */
  readonly #files = new Map<number, { readonly entry: RamBlockEntry; readonly output: OutputFile }>();
  readonly #input: string | undefined;
  #madeFolder: string | undefined;

  /** @param input Path of the snapshot, where it has one: no block's file may take its place. */
  constructor(target: ExtractTarget, options: OutputFileOptions, input?: string) {
    this.#target = target;
    this.#options = options;
    this.#input = input;
  }

  /** Whether a block of this name is wanted at all. */
  wants(name: string): boolean {
    return !("block" in this.#target) || this.#target.block === name;
  }

  /**
   * Makes a file for each block that is wanted.
   *
   * @param leftOut Blocks that have no pages.
   * @returns Where each block's pages go.
   * @throws UsageError when the block is not there or was left out, or a file exists; FormatError; MachineError `io`.
   */
  create(blocks: readonly RamBlockEntry[], leftOut: ReadonlySet<string>, pageSize: number): PlacedBlock[] {
    if (!blocks.some(({ name }) => this.wants(name))) {
      throw new UsageError("The snapshot has no RAM block of this name", {
        ...("block" in this.#target ? { block: this.#target.block } : {}),
        hint: "ramport info lists them",
      });
    }
    if ("folder" in this.#target) this.#makeFolder(this.#target.folder);
    return blocks.map((entry, index) => {
      const { name, usedLength } = entry;
      if (!this.wants(name)) return { name };
      if (leftOut.has(name)) {
        this.leaveOut(index, name);
        return { name };
      }
      const file = this.#pathOf(name);
      if (this.#input !== undefined && isSameFile(file, this.#input)) {
        throw new UsageError("The block's file would replace the snapshot itself", {
          path: file,
          block: name,
          hint: "choose another name",
        });
      }
      const output = OutputFile.create(file, this.#options);
      this.#files.set(index, { entry, output });
      output.truncate(usedLength);
      return { name, place: { file: output, position: 0, pageCount: usedLength / pageSize } };
    });
  }

  /**
   * Gives up on a block that turned out to have no pages.
   *
   * @throws UsageError when it is the one that was asked for.
   */
  leaveOut(index: number, name: string): void {
    if ("block" in this.#target) {
      throw new UsageError("The memory of a block that the source left out is not in the snapshot", {
        block: name,
        hint: "it is shared memory, and x-ignore-shared was on",
      });
    }
    this.#files.get(index)?.output.discard();
    this.#files.delete(index);
  }

  /**
   * Gives the files their names.
   *
   * @throws UsageError when a file of such a name has come meanwhile; MachineError `io`; CancelledError. {@link discard}
   *   then leaves none.
   */
  async commit(options: {
    readonly sha256?: boolean;
    readonly signal?: AbortSignal;
    readonly onProgress?: ProgressListener;
  }): Promise<ExtractedBlock[]> {
    const files = [...this.#files.values()];
    const totalBytes = files.reduce((sum, { entry }) => sum + entry.usedLength, 0);
    const hashing = new Hashing(totalBytes, options.signal, options.onProgress);
    const blocks: ExtractedBlock[] = [];
    for (const { entry, output } of files) {
      const sha256 = options.sha256 === true ? await hashing.hash(output) : undefined;
      const { sizeBytes: bytes, allocatedBytes, path: file } = output;
      const hash = sha256 === undefined ? {} : { sha256 };
      blocks.push({ name: entry.name, path: file, bytes, allocatedBytes, ...hash });
    }
    for (const { output } of files) await output.publish(options.signal);
    for (const { output } of files) output.settle();
    this.#madeFolder = undefined;
    return blocks;
  }

  /** Removes whatever is not committed; afterwards it does nothing. */
  discard(): void {
    for (const { output } of this.#files.values()) output.discard();
    this.#files.clear();
    if (this.#madeFolder === undefined) return;
    try {
      rmdirSync(this.#madeFolder);
    } catch {
      // Somebody has put something there: it stays.
    }
    this.#madeFolder = undefined;
  }

  #pathOf(name: string): string {
    return "folder" in this.#target ? path.join(this.#target.folder, blockFileName(name)) : this.#target.path;
  }

  #makeFolder(folder: string): void {
    try {
      // Guest memory is its owner's alone, as the files in it are.
      mkdirSync(folder, { mode: 0o700 });
      this.#madeFolder = folder;
    } catch (cause) {
      if (errnoCode(cause) !== "EEXIST") throw systemError("Creating", folder, cause);
      if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true) return;
      throw new UsageError(`${folder} exists and is no folder`, { path: folder });
    }
  }
}

/** Reads files back for their hashes. */
class Hashing {
  readonly #totalBytes: number;
  readonly #signal: AbortSignal | undefined;
  readonly #meter: ProgressMeter;
  #doneBytes = 0;

  constructor(totalBytes: number, signal: AbortSignal | undefined, onProgress: ProgressListener | undefined) {
    this.#totalBytes = totalBytes;
    this.#signal = signal;
    this.#meter = new ProgressMeter(onProgress);
  }

  async hash(file: OutputFile): Promise<string> {
    const hash = createHash("sha256");
    const buffer = new Uint8Array(HASH_BYTES);
    const { sizeBytes } = file;
    let position = 0;
    const add = async (end: number, read: boolean): Promise<void> => {
      if (!read) buffer.fill(0);
      while (position < end) {
        const part = buffer.subarray(0, Math.min(buffer.length, end - position));
        if (read) file.readAt(part, position);
        hash.update(part);
        position += part.length;
        await this.#rest(part.length);
      }
    };
    for (const { start, end } of dataRanges(file, 0, sizeBytes)) {
      await add(start, false);
      await add(end, true);
    }
    await add(sizeBytes, false);
    return hash.digest("hex");
  }

  async #rest(bytes: number): Promise<void> {
    this.#doneBytes += bytes;
    const totalBytes = this.#totalBytes;
    const remainingBytes = totalBytes - this.#doneBytes;
    this.#meter.update(this.#doneBytes, () => ({ phase: "hashing", totalBytes, remainingBytes }));
    // Or no signal is heard before the end.
    await nextTurn();
    throwIfAborted(this.#signal);
  }
}

/** Whether two paths lead to one file, by whatever links. */
function isSameFile(a: string, b: string): boolean {
  const [one, other] = [a, b].map((file) => statSync(file, { throwIfNoEntry: false, bigint: true }));
  if (one === undefined || other === undefined) return false;
  return one.dev === other.dev && one.ino === other.ino;
}
