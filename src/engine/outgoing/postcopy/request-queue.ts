import { assert, FormatError } from "../../../errors/index.js";
import { PageBitmap } from "../../../memory/index.js";
import { type PageRequest, RAM_SECTION } from "../../../wire/index.js";
import type { PageSource } from "./page-source.js";
import type { PagePlace, SentPages } from "./sent-pages.js";

/** A host page that the destination waits for. */
export interface WantedPage extends PagePlace {
  /** When it was asked for, by the clock of whoever added it. */
  readonly askedAtMs: number;
}

/**
 * The pages that the destination asked for and that were not sent yet, first come, first served. It holds each page once,
 * however often it is asked for: the guest's memory bounds it.
 */
export class PageRequestQueue {
  readonly #source: PageSource;
  readonly #sent: SentPages;
  readonly #indexByName: ReadonlyMap<string, number>;
  readonly #queued: readonly PageBitmap[];
  #waiting: WantedPage[] = [];
  #head = 0;
  /** The block of the request before, which the next one may leave out. */
  #lastBlock: number | undefined;

  constructor(source: PageSource, sent: SentPages) {
    this.#source = source;
    this.#sent = sent;
    this.#indexByName = new Map(source.blocks.map(({ name }, index) => [name, index]));
    this.#queued = source.blocks.map(
      ({ usedLength, hostPageSize }) => new PageBitmap(usedLength / hostPageSize),
    );
  }

  /**
   * Takes a request in. Pages that were sent are on their way, and are passed over.
   *
   * @param offset Where on the return path it stands, for errors.
   * @returns Where it begins, whether or not the page has to be sent.
   * @throws FormatError `inconsistent` for a request that is none of whole host pages of a block.
   */
  add(request: PageRequest, offset: number, nowMs: number): PagePlace {
    const block = this.#blockOf(request, offset);
    const { hostPageSize, usedLength, name } = this.#source.blocks[block] ?? none();
    const { start, length } = request;
    if (start % hostPageSize !== 0 || length % hostPageSize !== 0 || length === 0) {
      throw bad("The destination asks for a part of a page", request, name, offset);
    }
    if (start + length > usedLength) {
      throw bad("The destination asks for pages that its RAM block does not have", request, name, offset);
    }
    this.#lastBlock = block;
    const first = start / hostPageSize;
    const queued = this.#queued[block] ?? none();
    for (let page = first; page < first + length / hostPageSize; page++) {
      if (queued.has(page) || this.#sent.isSent(block, page)) continue;
      queued.set(page);
      this.#waiting.push({ block, page, askedAtMs: nowMs });
    }
    return { block, page: first };
  }

  /** The page that has waited longest, of those that were not sent meanwhile with another one. */
  take(): WantedPage | undefined {
    while (this.#head < this.#waiting.length) {
      const wanted = this.#waiting[this.#head++] ?? none();
      if (this.#head === this.#waiting.length) {
        this.#waiting = [];
        this.#head = 0;
      }
      this.#queued[wanted.block]?.clear(wanted.page);
      if (!this.#sent.isSent(wanted.block, wanted.page)) return wanted;
    }
    return undefined;
  }

  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  /** Forgets all: over a new connection the destination asks again, and names the block first. */
  clear(): void {
    for (const { block, page } of this.#waiting.slice(this.#head)) this.#queued[block]?.clear(page);
    this.#waiting = [];
    this.#head = 0;
    this.#lastBlock = undefined;
  }

  #blockOf(request: PageRequest, offset: number): number {
    const block = request.block === undefined ? this.#lastBlock : this.#indexByName.get(request.block);
    if (block !== undefined) return block;
    if (request.block === undefined) {
      throw new FormatError("inconsistent", "The destination asks for a page of no block", { offset });
    }
    throw bad("The destination asks for pages of an unknown RAM block", request, request.block, offset);
  }
}

function bad(message: string, { start, length }: PageRequest, block: string, offset: number): FormatError {
  const actual = `${length} bytes at ${start}`;
  return new FormatError("inconsistent", message, { offset, section: RAM_SECTION.name, block, actual });
}

function none(): never {
  assert(false, "a place outside of all blocks");
}
