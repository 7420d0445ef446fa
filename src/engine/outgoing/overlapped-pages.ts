import { AlignedSlots, SLOT_BYTES } from "../../channels/aligned-slots.js";
import type { DirtyLog } from "../host.js";
import { InFlight } from "../in-flight.js";
import type { PageRun } from "../../memory/index.js";

/** Takes pages that follow each other; `bytes` must stay as they are until it has settled. */
export type PlacePages = (
  block: number,
  address: number,
  bytes: Uint8Array,
  at: number,
  length: number,
) => Promise<void>;

/** Copies that may be made at a time, whatever is allowed to be in flight: so much memory is taken. */
const MOST_SLOTS = 16;

/**
 * Hands guest memory to a file that writes beside this thread, so many pieces at a time: QEMU's multifd channels, where a
 * file takes the place of connections.
 *
 * Memory that stands still is written from where it is. Of a guest that runs, pages are copied first, although a page that
 * changes while it is written would come again: a dirty log that compares or hashes must know what exactly was written, and
 * a page that changed and changed back would be torn in the file and clean to the log.
 */
export class OverlappedPages {
  readonly #place: PlacePages;
  readonly #pageSize: number;
  readonly #writes: InFlight;
  readonly #copies: InFlight;
  readonly #slots = new AlignedSlots();
  #roundBegan = false;

  /** @param channels How many pieces are in flight at a time. */
  constructor(place: PlacePages, pageSize: number, channels: number) {
    this.#place = place;
    this.#pageSize = pageSize;
    this.#writes = new InFlight(channels);
    this.#copies = new InFlight(Math.min(channels, MOST_SLOTS));
  }

  /** Pages may come again from here on: what is in flight has to end before. */
  beginRound(): void {
    this.#roundBegan = true;
  }

  /**
   * Takes a run of pages.
   *
   * @param isStill The source's bytes are memory that does not change, and stays where it is, until {@link settle}.
   * @returns When there is room for more.
   * @throws What a write failed with: any before this one, too.
   */
  async take(source: Pick<DirtyLog, "take">, block: number, run: PageRun, isStill: boolean): Promise<void> {
    if (this.#roundBegan) await this.settle();
    this.#roundBegan = false;
    if (isStill) await this.#takeStill(source, block, run);
    else await this.#takeCopied(source, block, run);
  }

  /**
   * Waits until nothing is in flight.
   *
   * @throws What the first write that failed did.
   */
  async settle(): Promise<void> {
    // Both, before either throws.
    const results = await Promise.allSettled([this.#writes.drain(), this.#copies.drain()]);
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  async #takeStill(source: Pick<DirtyLog, "take">, block: number, run: PageRun): Promise<void> {
    const pieces: { readonly bytes: Uint8Array; readonly address: number }[] = [];
    source.take(block, run, (bytes, address) => pieces.push({ bytes, address }));
    for (const { bytes, address } of pieces) {
      await this.#writes.start(() => this.#place(block, address, bytes, 0, bytes.length));
    }
  }

  async #takeCopied(source: Pick<DirtyLog, "take">, block: number, run: PageRun): Promise<void> {
    const most = SLOT_BYTES / this.#pageSize;
    for (let start = run.start; start < run.end; start += most) {
      const end = Math.min(run.end, start + most);
      const address = start * this.#pageSize;
      await this.#copies.start(async () => {
        const slot = this.#slots.take();
        try {
          source.take(block, { start, end }, (bytes, at) => slot.set(bytes, at - address));
          await this.#place(block, address, slot, 0, (end - start) * this.#pageSize);
        } finally {
          this.#slots.release(slot);
        }
      });
    }
  }
}
