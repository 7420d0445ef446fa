import { assert } from "../../../errors/index.js";
import { PageBitmap } from "../../../memory/index.js";
import { eachPiece, type MigrationHost } from "../../host.js";
import { ORDINARY_HOST_PAGE_BYTES, type PageSource, type PostcopyBlock } from "./page-source.js";

/** Bytes of each block's host pages, in the order of the host's blocks: both sides must have the same ones. */
export function hostPageSizes(host: MigrationHost): readonly number[] {
  const ordinary = Math.max(ORDINARY_HOST_PAGE_BYTES, host.pageSize);
  return host.postcopy?.hostPageSizes ?? host.ramBlocks().map(() => ordinary);
}

/** The pages of a guest that stands still, read from its memory. */
export class HostPageSource implements PageSource {
  readonly targetPageSize: number;
  readonly blocks: readonly PostcopyBlock[];
  /** A page that was never looked at may be zero. */
  readonly looksForZeros = true;
  readonly #host: MigrationHost;
  readonly #check: () => void;

  /** @param check Throws when the guest does not stand still any more; asked before each piece that is read. */
  constructor(host: MigrationHost, check: () => void) {
    this.#host = host;
    this.#check = check;
    this.targetPageSize = host.pageSize;
    const sizes = hostPageSizes(host);
    this.blocks = host.ramBlocks().map(({ name, usedLength }, index) => {
      const content = new PageBitmap(usedLength / host.pageSize);
      content.setRange(0, content.pageCount);
      return { name, usedLength, hostPageSize: sizes[index] ?? host.pageSize, content };
    });
  }

  readPages(block: number, firstPage: number, target: Uint8Array): void {
    this.#check();
    const address = firstPage * this.targetPageSize;
    const segments = this.#host.ramBlocks()[block]?.segments ?? [];
    let copied = 0;
    eachPiece(segments, address, target.length, target.length, (bytes, at) => {
      target.set(bytes, at - address);
      copied += bytes.length;
    });
    assert(copied === target.length, "pages of the host's memory");
  }
}
