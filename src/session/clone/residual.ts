import fs from "node:fs";

import { type ByteSink, OutputFile, type RandomAccessSource, systemError } from "../../channels/index.js";
import { writeAllAt } from "../../channels/positioned-io.js";
import { type MappedRamFile, sendMappedRam } from "../../engine/index.js";
import { CancelledError } from "../../errors/index.js";

/** How to write a residual stream. */
export interface ResidualOptions {
  readonly path: string;
  /** Names of the blocks that the loader has already. */
  readonly mappedBlocks: ReadonlySet<string>;
  readonly signal?: AbortSignal;
}

/**
 * Writes the stream that brings a clone what it does not map: all other blocks, zero pages too, and the devices' state.
 * For a moment's use: not synced.
 *
 * @returns Its length in bytes.
 * @throws MachineError `io`; FormatError when the snapshot is damaged; CancelledError.
 */
export async function writeResidual(
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  { path, ...options }: ResidualOptions,
): Promise<number> {
  let fd: number;
  try {
    fd = fs.openSync(path, "wx", 0o600);
  } catch (cause) {
    throw systemError("Creating", path, cause);
  }
  try {
    const sink = new PositionSink((bytes, position) =>
      writeAllAt(fd, path, bytes, 0, bytes.length, position),
    );
    return (await sendMappedRam(file, skeleton, sink, options)).sentBytes;
  } finally {
    fs.closeSync(fd);
  }
}

/**
 * The same, for somebody else to load: whole or not there.
 *
 * @throws As {@link writeResidual} does; UsageError when the file exists and may not be replaced.
 */
export async function publishResidual(
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  { path, replace, ...options }: ResidualOptions & { readonly replace: boolean },
): Promise<number> {
  const output = OutputFile.create(path, { replace });
  try {
    const sink = new PositionSink((bytes, position) => output.writeAt(bytes, 0, bytes.length, position));
    const { sentBytes } = await sendMappedRam(file, skeleton, sink, options);
    await output.commit(options.signal);
    return sentBytes;
  } finally {
    output.discard();
  }
}

class PositionSink implements ByteSink {
  readonly #write: (bytes: Uint8Array, position: number) => void;
  #position = 0;
  #closed = false;

  constructor(write: (bytes: Uint8Array, position: number) => void) {
    this.#write = write;
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#closed) return Promise.reject(new CancelledError());
    this.#write(bytes, this.#position);
    this.#position += bytes.length;
    return Promise.resolve();
  }

  end(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }
}
