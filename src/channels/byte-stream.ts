/** A channel's reading end: bytes in order, pulled by the reader. */
export interface ByteSource {
  /**
   * Reads at least one and at most `target.length` bytes into `target`.
   *
   * @returns How many bytes were read; 0 at the end.
   * @throws MachineError `io` or `connection-closed`.
   */
  read(target: Uint8Array): Promise<number>;
  /** Gives the resource back; a pending read fails. Closing twice is fine. */
  close(): Promise<void>;
}

/** A channel's writing end. */
export interface ByteSink {
  /**
   * Writes all of `bytes`; they may be reused when the promise has resolved.
   *
   * @throws MachineError `io` or `connection-closed`.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Says that nothing more comes, once everything written was handed over. */
  end(): Promise<void>;
  close(): Promise<void>;
}

/** Both ends of one connection. */
export type ByteChannel = ByteSource & ByteSink;

/** A file that can be read at any place, synchronously: what snapshots are opened on. */
export interface RandomAccessSource {
  /** Length in bytes. */
  readonly sizeBytes: number;
  /**
   * Reads up to `target.length` bytes at `position`.
   *
   * @returns How many bytes were read: fewer only at the end of the file.
   * @throws MachineError `io`.
   */
  readAt(target: Uint8Array, position: number): number;
}

/** A file that is read at several places at a time, beside this thread. */
export interface OverlappedReader {
  /**
   * Reads up to `target.length` bytes at `position`; `target` must be left alone meanwhile.
   *
   * @returns How many bytes were read: fewer only at the end of the file.
   * @throws MachineError `io`.
   */
  startRead(target: Uint8Array, position: number): Promise<number>;
}

/** A file that is written at several places at a time, beside this thread. */
export interface OverlappedWriter {
  /**
   * Writes all of `bytes` at `position`; they must stay as they are meanwhile. Nothing is said of the order in which writes
   * of one place that run together happen.
   *
   * @throws MachineError `io`.
   */
  startWrite(bytes: Uint8Array, position: number): Promise<void>;
}

/** A file that a migration comes from: besides from front to back, it can be read at any place. */
export interface IncomingFile extends RandomAccessSource, OverlappedReader {
  /** Where the stream begins in the file, in bytes. */
  readonly startOffset: number;
  /** Closes the channel's source too: they are one file. */
  close(): Promise<void>;
}

/**
 * A file that a migration goes to: besides from front to back, it can be written and read back at any place. Positions
 * count from the file's begin. Every method throws MachineError `io`, or `connection-closed` after `close`.
 */
export interface OutgoingFile extends RandomAccessSource, OverlappedWriter {
  /** Where the stream begins in the file, in bytes. */
  readonly startOffset: number;
  /** @throws MachineError `not-capable` when it is a descriptor that was opened for writing only. */
  readAt(target: Uint8Array, position: number): number;
  /** Writes all of `bytes[at .. at+length)` at `position`. */
  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void;
  /** Makes `length` bytes at `position` read as zero, giving their space back where the file system can. */
  zeroAt(position: number, length: number): void;
  /** Gives the file this length; what is new reads as zero. */
  truncate(sizeBytes: number): void;
  /** Waits until everything that was written is on the device. */
  sync(): Promise<void>;
  /**
   * What was written is not wanted: cuts the file off at its start offset, so that nothing that looks whole is left, and
   * closes it. After `close` it does nothing.
   */
  discard(): Promise<void>;
  /**
   * Closes the channel's sink too: they are one file. A file that was opened by name and not synced since the last write
   * is discarded.
   */
  close(): Promise<void>;
}
