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
