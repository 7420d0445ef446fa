import { type MigrationUri, openOutgoing, ReadableFile } from "../channels/index.js";
import {
  checkPageBitmaps,
  openMappedRam,
  type ProgressListener,
  sendMappedRam,
  type SendResult,
} from "../engine/index.js";

/** How to send a snapshot. */
export interface SendSnapshotOptions {
  /** Where the stream starts in the file, in bytes. */
  readonly streamOffset?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/**
 * Sends a mapped-ram file to a QEMU that waits at the URI. Over a socket it returns when the destination has said that it
 * loaded everything; over a pipe when everything is written.
 *
 * @throws FormatError for a bad file, before anything is sent; MachineError; CancelledError.
 */
export async function sendSnapshot(
  path: string,
  uri: MigrationUri,
  options: SendSnapshotOptions = {},
): Promise<SendResult> {
  const file = ReadableFile.open(path);
  try {
    const skeleton = openMappedRam(file, options.streamOffset ?? 0);
    checkPageBitmaps(file, skeleton.blocks);
    const { sink, ...returnPath } = await openOutgoing(uri, options);
    try {
      return await sendMappedRam(file, skeleton, sink, { ...options, ...returnPath });
    } finally {
      await sink.close();
    }
  } finally {
    file.close();
  }
}
