import { assert } from "../../../errors/index.js";
import { PageBitmap, type PageRun } from "../../../memory/index.js";
import type { PageSource, PostcopyBlock } from "./page-source.js";

/** A host page by the numbers of block and page. */
export interface PagePlace {
  readonly block: number;
  readonly page: number;
}

/** Host pages of one block, `start` up to, not including, `end`. */
export interface BlockRun extends PageRun {
  readonly block: number;
}

interface BlockState {
  readonly hostPageSize: number;
  /** Host pages that went out, over whichever channel, or that the destination has. */
  sent: PageBitmap;
  /** Those that did not and have to: with content, or all. */
  pending: PageBitmap;
}

/**
 * Which host pages the destination has or will have, for all channels together: a page that comes twice is an error there,
 * and the end of the guest.
 */
export class SentPages {
  readonly #source: PageSource;
  readonly #blocks: readonly BlockState[];
  /** Counted when it is first asked for: by then the destination loads its devices, and waits for nothing from here. */
  #pendingBytes: number | undefined;

  /** All unsent. */
  constructor(source: PageSource) {
    this.#source = source;
    this.#blocks = source.blocks.map((block) => {
      const sent = new PageBitmap(block.usedLength / block.hostPageSize);
      return { hostPageSize: block.hostPageSize, sent, pending: this.#contentOf(block) };
    });
  }

  /** Bytes of host pages that are still to be sent: those with content, or all after {@link pendAll}. */
  get pendingBytes(): number {
    this.#pendingBytes ??= this.#blocks.reduce(
      (sum, { pending, hostPageSize }) => sum + pending.count() * hostPageSize,
      0,
    );
    return this.#pendingBytes;
  }

  hostPages(block: number): number {
    return this.#state(block).sent.pageCount;
  }

  isSent(block: number, page: number): boolean {
    return this.#state(block).sent.has(page);
  }

  /** Takes pages for sending: from now on they count as sent. */
  markSent({ block, start, end }: BlockRun): void {
    const { sent, pending, hostPageSize } = this.#state(block);
    assert(sent.nextSet(start, end) === end, "no page is sent twice");
    sent.setRange(start, end);
    if (this.#pendingBytes !== undefined) {
      for (let page = pending.nextSet(start, end); page < end; page = pending.nextSet(page + 1, end)) {
        this.#pendingBytes -= hostPageSize;
      }
    }
    pending.clearRange(start, end);
  }

  /**
   * The next run of pages with content that were not sent, from a place on and around to it again.
   *
   * @param mostPages The longest run wanted.
   */
  nextPending(from: PagePlace, mostPages: (hostPageSize: number) => number): BlockRun | undefined {
    const count = this.#blocks.length;
    for (let step = 0; step <= count; step++) {
      const block = (from.block + step) % count;
      const { pending, hostPageSize } = this.#state(block);
      const start = pending.nextSet(step === 0 ? from.page : 0);
      if (start === pending.pageCount) continue;
      return { block, start, end: pending.nextClear(start, start + mostPages(hostPageSize)) };
    }
    return undefined;
  }

  /** Makes all unsent pages pending, those without content too. */
  pendAll(): void {
    for (const state of this.#blocks) {
      const everything = new PageBitmap(state.sent.pageCount);
      everything.setRange(0, everything.pageCount);
      state.pending = everything.without(state.sent);
    }
    this.#pendingBytes = undefined;
  }

  /** Runs of pages that were not sent, zero pages too, among those of a run. */
  unsentIn({ block, start, end }: BlockRun): BlockRun[] {
    const { sent } = this.#state(block);
    const runs: BlockRun[] = [];
    for (let first = sent.nextClear(start, end); first < end;) {
      const last = sent.nextSet(first, end);
      runs.push({ block, start: first, end: last });
      first = sent.nextClear(last, end);
    }
    return runs;
  }

  /**
   * Takes over what the destination has of a block, and only that: what was under way to it is lost.
   *
   * @param received A bit for each target page. A host page counts as there when all of its target pages are.
   */
  adoptReceived(block: number, received: PageBitmap): void {
    const state = this.#state(block);
    const pagesPerHostPage = state.hostPageSize / this.#source.targetPageSize;
    const sent = new PageBitmap(state.sent.pageCount);
    assert(received.pageCount === sent.pageCount * pagesPerHostPage, "a bitmap for all of the block");
    for (const { start, end } of received.runs()) {
      const first = Math.ceil(start / pagesPerHostPage);
      const last = Math.floor(end / pagesPerHostPage);
      if (first < last) sent.setRange(first, last);
    }
    state.sent = sent;
    this.#recount(block);
  }

  #recount(block: number): void {
    const state = this.#state(block);
    const described = this.#source.blocks[block];
    assert(described !== undefined, `no block ${block}`);
    state.pending = this.#contentOf(described).without(state.sent);
    this.#pendingBytes = undefined;
  }

  /** Host pages with content; the caller's own. */
  #contentOf({ content, usedLength, hostPageSize }: PostcopyBlock): PageBitmap {
    const pagesPerHostPage = hostPageSize / this.#source.targetPageSize;
    if (pagesPerHostPage === 1) return content.copy();
    const hostPages = new PageBitmap(usedLength / hostPageSize);
    for (const { start, end } of content.runs()) {
      hostPages.setRange(Math.floor(start / pagesPerHostPage), Math.ceil(end / pagesPerHostPage));
    }
    return hostPages;
  }

  #state(block: number): BlockState {
    const state = this.#blocks[block];
    assert(state !== undefined, `no block ${block}`);
    return state;
  }
}
