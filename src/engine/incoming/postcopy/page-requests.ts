import type { BlocktimeCounter } from "./blocktime.js";
import type { MissingBlock, MissingPages } from "./missing-pages.js";
import type { ReturnPathWriter } from "./return-path-writer.js";

interface Request {
  readonly block: MissingBlock;
  /** Of the host page. */
  readonly address: number;
}

/** What the guest waits for: each host page is asked for once, however often it is touched. */
export class PageRequests {
  readonly #missing: MissingPages;
  readonly #blocktime: BlocktimeCounter;
  /** By the number of the host page, in the order in which they were asked for. */
  readonly #open = new Map<number, Request>();
  #returnPath: ReturnPathWriter | undefined;
  #asked = 0;
  #whenNone: (() => void) | undefined;

  constructor(missing: MissingPages, blocktime: BlocktimeCounter) {
    this.#missing = missing;
    this.#blocktime = blocktime;
  }

  /** Host pages that were asked for, each once. */
  get asked(): number {
    return this.#asked;
  }

  /** Host pages that were asked for and have not come. */
  get open(): number {
    return this.#open.size;
  }

  /** The guest waits for a page of one of the host's blocks. Without a connection the wish is kept. */
  ask(hostBlock: number, address: number, processor: number): void {
    const block = this.#missing.ofHost(hostBlock);
    // It came between the guest's touch and this call.
    if (this.#missing.has(block, address)) return;
    const number = block.firstHostPage + Math.floor(address / block.hostPageSize);
    this.#blocktime.begin(processor, number);
    if (this.#open.has(number)) return;
    const request = { block, address: (number - block.firstHostPage) * block.hostPageSize };
    this.#open.set(number, request);
    this.#asked += 1;
    this.#returnPath?.request(request.block, request.address);
  }

  /** Pages are in place. Bytes: whole host pages. */
  placed(block: MissingBlock, address: number, length: number): void {
    if (this.#open.size === 0) return;
    const first = block.firstHostPage + address / block.hostPageSize;
    for (let number = first; number < first + length / block.hostPageSize; number++) {
      if (this.#open.delete(number)) this.#blocktime.end(number);
    }
    if (this.#open.size === 0) this.#whenNone?.();
  }

  /** A connection is there: all that is waited for is asked for over it. */
  connect(returnPath: ReturnPathWriter): void {
    this.#returnPath = returnPath;
    for (const { block, address } of this.#open.values()) returnPath.request(block, address);
  }

  /** The connection has gone. */
  disconnect(): void {
    this.#returnPath = undefined;
  }

  /** Resolves when all that was asked for has come. */
  allPlaced(): Promise<void> {
    if (this.#open.size === 0) return Promise.resolve();
    return new Promise((resolve) => (this.#whenNone = resolve));
  }
}
