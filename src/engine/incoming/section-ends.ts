import { FormatError } from "../../errors/index.js";
import {
  decodeSectionFooter,
  HTAB_SECTION_NAME,
  type HtabReached,
  Limits,
  SECTION_FOOTER_BYTES,
  type SectionFraming,
  type SectionHeader,
  SectionType,
  searchSectionFooter,
  skipHtabPart,
} from "../../wire/index.js";
import type { MigrationTarget } from "../migration-target.js";
import type { StreamInput } from "../stream-input.js";

/** Finds where the sections of a stream end, and hands over as they are those that are not RAM. */
export class SectionEnds {
  /** Whether RAM has begun: what stands in front of it is kept in memory by the target. */
  ramHasBegun = false;
  readonly #input: StreamInput;
  readonly #target: Pick<MigrationTarget, "verbatim">;
  /** Whether sections end with footers, as the first part of RAM shows. */
  #footers: boolean | undefined;
  #htabId: number | undefined;
  #bytesBeforeRam = 0;

  constructor(input: StreamInput, target: Pick<MigrationTarget, "verbatim">) {
    this.#input = input;
    this.#target = target;
  }

  /** As far as it is known. */
  get framing(): SectionFraming & { readonly footers: boolean } {
    return {
      footers: this.#footers ?? true,
      ...(this.#htabId === undefined ? {} : { htabId: this.#htabId }),
    };
  }

  /** Machine types of QEMU 2.3 and older send no footers, and then nowhere. */
  async readFooter(header: SectionHeader): Promise<boolean> {
    this.#footers ??= (await this.#input.peek()) === SectionType.FOOTER;
    if (this.#footers) await this.#input.parse((reader) => decodeSectionFooter(reader, header));
    return this.#footers;
  }

  /** A section whose length nothing has told yet: it ends with its footer. */
  async readOpaque(header: Pick<SectionHeader, "id" | "name">, headBytes: number): Promise<void> {
    const { offset } = this.#input;
    if (header.name === HTAB_SECTION_NAME) this.#htabId = header.id;
    if (this.#footers === false && header.id === this.#htabId) {
      const reached: HtabReached = {};
      const part = await this.#input.parse((reader) => {
        reader.position = headBytes;
        skipHtabPart(reader, reached);
        return reader.bytes.subarray(0, reader.position);
      });
      this.take(part, offset);
      return;
    }
    // A footer needs what follows it to be believed, so a later search starts a little before the bytes that are new.
    const lookBack = 512;
    let searched = headBytes;
    const bytes = await this.#input.parse((reader) => {
      const footer = searchSectionFooter(reader.bytes, searched, header.id);
      searched = Math.max(headBytes, reader.bytes.length - lookBack);
      if (footer >= 0) return reader.view(footer + SECTION_FOOTER_BYTES);
      throw new FormatError("truncated", "The end of a device section was not found", {
        offset: reader.offset,
        section: header.name,
      });
    });
    this.take(bytes, offset);
  }

  /** The target keeps in memory what stands in front of RAM. */
  take(bytes: Uint8Array, offset: number): void {
    if (!this.ramHasBegun) this.#bytesBeforeRam += bytes.length;
    if (this.#bytesBeforeRam > Limits.tailBytes) {
      throw new FormatError(
        "limit-exceeded",
        `What stands in front of RAM has more than ${Limits.tailBytes} bytes`,
        { offset },
      );
    }
    this.#target.verbatim(bytes, offset);
  }
}
