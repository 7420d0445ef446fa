import {
  type DirectIo,
  type MigrationUri,
  openOutgoing,
  ReadableFile,
  type TlsCredentials,
} from "../channels/index.js";
import {
  checkPageBitmaps,
  openMappedRam,
  type ProgressListener,
  sendMappedRam,
  type SendResult,
} from "../engine/index.js";
import { MachineError, UsageError } from "../errors/index.js";

/** How to send a snapshot. */
export interface SendSnapshotOptions {
  /** Where the stream starts in the file, in bytes. */
  readonly streamOffset?: number;
  /** Whether pages are read past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  /** Sockets: the destination waits with TLS, and this side is the client. */
  readonly tls?: TlsCredentials;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/**
 * Sends a mapped-ram file to a QEMU that waits at the URI. Over a socket it returns when the destination has said that it
 * loaded everything; over a pipe when everything is written, and to a command when that has ended well.
 *
 * @throws UsageError for a destination that is a file; FormatError for a bad file, before anything is sent; MachineError;
 *   CancelledError.
 */
export async function sendSnapshot(
  path: string,
  uri: MigrationUri,
  options: SendSnapshotOptions = {},
): Promise<SendResult> {
  if (uri.kind === "file") {
    throw new UsageError("A migration is sent to a waiting QEMU, not into a file", {
      hint: "use unix:PATH, tcp:HOST:PORT, fd:N, exec:COMMAND, or - for standard output",
    });
  }
  const file = ReadableFile.open(path, { directIo: options.directIo ?? "off" });
  try {
    const skeleton = openMappedRam(file, options.streamOffset ?? 0);
    checkPageBitmaps(file, skeleton.blocks);
    const { sink, returnPath } = await openOutgoing(uri, { ...options, directIo: "off" });
    try {
      return await sendMappedRam(file, skeleton, sink, {
        ...options,
        ...(returnPath === undefined ? {} : { returnPath }),
      });
    } catch (error) {
      throw withReason(error);
    } finally {
      await sink.close();
    }
  } finally {
    file.close();
  }
}

/** A destination that hangs up does not say why on the connection. */
function withReason(error: unknown): unknown {
  if (!(error instanceof MachineError) || error.code !== "connection-closed") return error;
  if (error.data.hint !== undefined) return error;
  const hint = "its own error says why: look at its standard error or log (does it want TLS?)";
  return new MachineError(error.code, error.message, { ...error.data, hint }, error);
}
