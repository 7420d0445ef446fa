/**
 * Memory of this thread whose pages come from a source.
 *
 * @module
 */

import { AlignedSlots } from "../../src/channels/aligned-slots.js";
import type { SocketChannel } from "../../src/channels/index.js";
import type { PostcopyListening, PostcopyStart, PostcopyStatus } from "../../src/engine/index.js";
import { assert } from "../../src/errors/index.js";
import { uffdCalls } from "../../src/hosts/userfaultfd/system.js";
import { ThreadedPostcopy } from "../../src/hosts/userfaultfd/threaded-postcopy.js";
import { PageBitmap } from "../../src/memory/index.js";
import { RAM_ID, SOURCE_PAGE, sourcePage } from "./source-pages.js";

/** What its source has. */
export const GUEST_BLOCKS = [{ name: "pc.ram", pages: 2048 }] as const;
const [{ name: BLOCK, pages: PAGES }] = GUEST_BLOCKS;

/** Memory whose pages come from a source, and what was heard of it. */
export interface PostcopyGuest {
  readonly memory: Uint8Array;
  readonly listening: PostcopyListening;
  readonly statuses: PostcopyStatus[];
  readonly lost: Error[];
  readonly held: boolean[];
}

/** Memory of WebAssembly as a guest has it, with some pages that have come before. */
export async function postcopyGuest(
  channel: SocketChannel,
  received: readonly number[] = [],
): Promise<PostcopyGuest> {
  const memory = new Uint8Array(new AlignedSlots().take().buffer);
  assert(memory.length === PAGES * SOURCE_PAGE, "memory of that many pages");
  // What it held before is not to be seen any more.
  memory.fill(0xee);
  const bitmap = new PageBitmap(PAGES);
  for (const page of received) {
    memory.set(sourcePage(BLOCK, page), page * SOURCE_PAGE);
    bitmap.set(page);
  }
  const lost: Error[] = [];
  const held: boolean[] = [];
  const postcopy = new ThreadedPostcopy({
    hostPageSizes: [SOURCE_PAGE],
    regions: () => [{ address: uffdCalls().addressOf(memory), length: memory.length }],
    hold: (isHeld) => held.push(isHeld),
    lose: (error) => {
      lost.push(error);
      return Promise.resolve();
    },
  });
  const statuses: PostcopyStatus[] = [];
  const start: PostcopyStart = {
    blocks: [
      {
        name: BLOCK,
        index: 0,
        usedLength: memory.length,
        hostPageSize: SOURCE_PAGE,
        received: bitmap.toBytes(),
      },
    ],
    targetPageSize: SOURCE_PAGE,
    ramSectionId: RAM_ID,
    footers: true,
    currentBlock: -1,
    unread: new Uint8Array(),
    offset: 0,
    preempt: false,
  };
  const listening = await postcopy.listen(
    start,
    { main: channel, returnPath: channel },
    { onStatus: (status) => statuses.push(status) },
  );
  return { memory, listening, statuses, lost, held };
}
