/**
 * A migration target that remembers what it was given.
 *
 * @module
 */

import type { MigrationTarget, RamSectionType } from "../../src/engine/index.js";
import type {
  Configuration,
  RamBlockEntry,
  RamRecordSink,
  SectionHeader,
  StreamTail,
} from "../../src/wire/index.js";

/** See the module. */
export class RecordingTarget implements MigrationTarget, RamRecordSink {
  machine = "";
  readonly verbatimBytes: Uint8Array[] = [];
  /** By `block:address`. */
  readonly pages = new Map<string, Buffer | "zero">();
  /** Types of the RAM section's parts, and whether a footer came. */
  readonly ends: [RamSectionType, boolean][] = [];
  tailSections: string[] = [];
  #pageSize = 0;

  configuration({ machine }: Configuration): void {
    this.machine = machine;
  }

  verbatim(bytes: Uint8Array): void {
    this.verbatimBytes.push(bytes.slice());
  }

  ramStart(_header: SectionHeader, _blocks: readonly RamBlockEntry[], pageSize: number): RamRecordSink {
    this.#pageSize = pageSize;
    return this;
  }

  page(block: number, address: number, bytes: Uint8Array, at: number): void {
    this.pages.set(`${block}:${address}`, Buffer.from(bytes.slice(at, at + this.#pageSize)));
  }

  zeroPage(block: number, address: number): void {
    this.pages.set(`${block}:${address}`, "zero");
  }

  xbzrlePage(): void {
    throw new Error("no test sends these");
  }

  compressedPage(): void {
    throw new Error("no test sends these");
  }

  ramSectionEnd(type: RamSectionType, footer: boolean): void {
    this.ends.push([type, footer]);
  }

  tail(tail: StreamTail): void {
    this.tailSections = tail.sections.map(({ name }) => name);
  }
}
