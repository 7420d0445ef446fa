/** The values of `multifd-compression` that are done here. */
export type PacketCompression = "zlib" | "zstd";

/**
 * Compresses the pages of one multifd channel: one stream for the whole migration, flushed after each packet and never
 * ended, as QEMU's receivers from 7.2 to 11.1 read it. They take each packet page by page: when a page is full they go on
 * with the next, and what is then left of the packet is lost; so each packet must give exactly its pages, and must not
 * need a byte of the next one.
 */
export interface PacketCompressor {
  /**
   * Compresses one packet's pages.
   *
   * @param input normal_pages * page_size bytes; they must not change before the promise settles, for zlib does not bear
   *   that: of a running guest, give a copy. Without bytes nothing goes into the stream: QEMU takes no data for no pages.
   * @returns What goes into the packet, valid until the next call. Never much larger than the input: QEMU's buffer is twice
   *   the largest packet.
   * @throws CancelledError when it is closed meanwhile; MachineError when the machine has no memory for it. No further
   *   packet can be compressed after that.
   */
  compress(input: Uint8Array): Promise<Uint8Array>;

  /** Gives the memory back; a packet in work is cancelled. */
  close(): void;
}

/** Unpacks what one multifd channel brings: the other end of {@link PacketCompressor}, and of QEMU's. */
export interface PacketDecompressor {
  /**
   * Unpacks one packet's data, which must fill `output` exactly. No more than `output` and a fixed 256 KiB are unpacked,
   * whatever the data would become, beside the stream's own window (zlib 32 KiB, zstd at most 32 MiB).
   *
   * @param input The packet's data, all of it; must not change before the promise settles. Empty for a packet without
   *   pages, whatever its header says: QEMU 7.2 leaves the size of the packet before in it, and sends nothing.
   * @param output normal_pages * page_size bytes. What it holds after a failure means nothing.
   * @throws FormatError `truncated` when the data ends before `output` is full, `limit-exceeded` when the stream asks for
   *   more memory than any level of QEMU, `malformed` for all else that is wrong: damage, too much data, a stream that
   *   ended; CancelledError when it is closed meanwhile. No further packet can be read after any of these.
   */
  decompress(input: Uint8Array, output: Uint8Array): Promise<void>;

  /** Gives the memory back; a packet in work is cancelled. */
  close(): void;
}
