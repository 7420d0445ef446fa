import type { ByteSink, ByteSource } from "../../channels/index.js";

/** A RAM block of a migration, and what is known of its pages when postcopy begins. Plain data: it may go to another thread. */
export interface PostcopyBlock {
  readonly name: string;
  /** Place in the host's list of blocks: what {@link PostcopyMemory} calls the block. */
  readonly index: number;
  /** Bytes: a multiple of the host page size. */
  readonly usedLength: number;
  /** Bytes: a power of two, the target page size or more. A page of this size is there as a whole, or missing. */
  readonly hostPageSize: number;
  /**
   * Target pages that have come and were not discarded again, a bit each: bit `i` is bit `i mod 8` of byte `i / 8`, in whole
   * 64-bit words. Undefined for a block that does not travel (`x-ignore-shared`): nothing of it is missing.
   */
  readonly received: Uint8Array | undefined;
}

/** Where a migration stands at POSTCOPY_LISTEN. Plain data: it may go to another thread. */
export interface PostcopyStart {
  /** In the order of the migration's block list. */
  readonly blocks: readonly PostcopyBlock[];
  /** Bytes. */
  readonly targetPageSize: number;
  /** The RAM section's number: later parts of it are told by it. */
  readonly ramSectionId: number;
  /** Whether sections end with footers. */
  readonly footers: boolean;
  /** Place in {@link blocks} of the block of the last page that came: a page may continue it. -1 for none. */
  readonly currentBlock: number;
  /** What was read of the main channel and not looked at yet; it comes before what the channel gives. */
  readonly unread: Uint8Array;
  /** Where {@link unread} stands in the stream, in bytes: for errors. */
  readonly offset: number;
  /** Whether the source has a second connection for the pages that are asked for (`postcopy-preempt`). */
  readonly preempt: boolean;
}

/** A source's connections. Whoever gets them closes them. */
export interface PostcopyConnection {
  readonly main: ByteSource;
  /** The other direction of the main connection. */
  readonly returnPath: ByteSink;
  /** With `postcopy-preempt`: the second connection. It may come later than the main one, and never when that breaks. */
  readonly preempt?: Promise<ByteSource>;
}

/** Says that the guest waits for the page at an address (bytes) of a block, and which of its processors does: from 0. */
export type OnMissingPage = (block: number, address: number, processor?: number) => void;

/**
 * Memory in which pages are missing until they are placed; a guest that touches a missing page waits. Blocks are named by
 * their place in the host's list.
 *
 * It belongs to the thread in which the listener is; every call is from there, and none may touch a missing page.
 */
export interface PostcopyMemory {
  /**
   * From now on host pages of which a target page was not received are missing, whatever the memory held.
   *
   * @param onMissing To be called each time the guest begins to wait, in the listener's thread; again for a page that was
   *   asked for does no harm. Never during a call of `place` or `placeZero`.
   */
  begin(blocks: readonly PostcopyBlock[], onMissing: OnMissingPage): void | Promise<void>;
  /**
   * Puts missing host pages in place, each of them at once, and lets those go on who wait for them.
   *
   * @param address Offset in the block, in bytes.
   * @param length Bytes: whole host pages of one block.
   */
  place(block: number, address: number, bytes: Uint8Array, at: number, length: number): void;
  /** The same with pages of zeros. */
  placeZero(block: number, address: number, length: number): void;
  /** All has come: what is still missing is zero from now on, and the memory is as any other. Those who wait go on. */
  end(): void | Promise<void>;
}

/** The states of a migration that a destination goes through after LISTEN, under QEMU's names. */
export type PostcopyStatus =
  "postcopy-active" | "postcopy-paused" | "postcopy-recover" | "completed" | "failed";

/** What is to be heard of a listening destination. */
export interface PostcopyEvents {
  /**
   * Each time the state changes.
   *
   * @param error Why it is paused or has failed.
   */
  onStatus?(status: PostcopyStatus, error: Error | undefined): void;
}

/** How long a guest waited for pages: QEMU's `postcopy-blocktime` capability. */
export interface PostcopyBlocktime {
  /** Milliseconds in which all processors waited (`postcopy-blocktime`). */
  readonly allBlockedMs: number;
  /** Milliseconds for each processor (`postcopy-vcpu-blocktime`). */
  readonly processorMs: readonly number[];
  /** Nanoseconds that a wait took on average (`postcopy-latency`); 0 before the first one. */
  readonly latencyNs: number;
  /** The same for each processor (`postcopy-vcpu-latency`). */
  readonly processorLatencyNs: readonly number[];
  /** Waits of 1 up to 2 microseconds, of 2 up to 4, and so on; the last one has all that are longer. */
  readonly latencyDistribution: readonly number[];
}

/** What came, and how. */
export interface PostcopyStatistics {
  /** Target pages with content, and pages of zeros. */
  readonly pages: { readonly normal: number; readonly zero: number };
  /** Host pages that were asked for, each once (`postcopy-requests`). */
  readonly requests: number;
  /** Bytes of the main channel and the second one, behind LISTEN. */
  readonly receivedBytes: number;
  readonly blocktime: PostcopyBlocktime;
}

/**
 * A destination that listens: from LISTEN on until all has come. It may be in another thread than the guest, which is
 * blocked while it waits for a page: then nothing that serves it may need the guest's thread.
 */
export interface PostcopyListening {
  /** Resolves when all has come, every page is in place and the source was told. Rejects when that cannot be any more. */
  readonly ended: Promise<PostcopyStatistics>;
  /**
   * Answers a PING that came before the listener read the channel. Resolves when the answer was handed over.
   *
   * @throws What broke the connection before {@link running}: the guest must not run here then.
   */
  pong(value: number): Promise<void>;
  /**
   * The guest is this side's: from now on a broken connection pauses the migration, until now it ends it.
   *
   * @throws What it has ended for: the guest is the source's, and must not run here.
   */
  running(): void;
  /** Breaks the connection as if the network had (`migrate-pause`). Does nothing when there is none. */
  pause(): void;
  /**
   * Goes on over another connection (`migrate-recover`). Resolves when the source has resumed.
   *
   * @throws UsageError when it is not paused; what breaks the new connection: it is paused again then.
   */
  recover(connection: PostcopyConnection): Promise<void>;
  /** Ends it for good: a guest that waits for a page waits for ever. */
  abort(error: Error): void;
  statistics(): Promise<PostcopyStatistics>;
}

/**
 * What a machine has that can run while pages are missing: `MigrationHost.postcopy`.
 *
 * In the thread of the host's choice it makes a `PostcopyListener` of what it gets and of a {@link PostcopyMemory}, which is
 * all that there is to it, but for connections that have to change the thread with it.
 */
export interface PostcopyHost {
  /** Bytes, one for each of the host's blocks, in its order. */
  readonly hostPageSizes: readonly number[];
  /**
   * The source may go over to postcopy (POSTCOPY_ADVISE). A host that has to find out whether it can, or something to start
   * that takes time, does it here.
   *
   * @param main What the migration comes over; nothing is to be read from it.
   * @throws MachineError `not-capable` when it cannot run while pages are missing: the migration is then refused.
   */
  prepare?(main: ByteSource): void;
  /**
   * Begins to listen. When it resolves, pages that were not received are missing and are asked for once they are touched.
   *
   * @param connection From here on the listener's: it reads and closes it.
   */
  listen(
    start: PostcopyStart,
    connection: PostcopyConnection,
    events: PostcopyEvents,
  ): Promise<PostcopyListening>;
}
