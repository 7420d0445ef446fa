import {
  type DirectIo,
  type MigrationUri,
  openOutgoing,
  ReadableFile,
  type SocketChannel,
  type TlsCredentials,
} from "../channels/index.js";
import {
  checkPageBitmaps,
  type MappedRamFile,
  multifdSyncModeOf,
  type MultifdSyncMode,
  openMappedRam,
  type ProgressListener,
  sendMappedRam,
  type SendOptions,
  type SendResult,
} from "../engine/index.js";
import { MachineError, UsageError } from "../errors/index.js";
import { parseUuid } from "../qapi/index.js";
import {
  checkMultifdOptions,
  type MultifdCompressionOptions,
  packetCompressionOf,
} from "./multifd-options.js";
import { closeChannels, openMultifdChannels } from "./send-channels.js";

/** How to send a snapshot. */
export interface SendSnapshotOptions extends MultifdCompressionOptions {
  /** Where the stream starts in the file, in bytes. */
  readonly streamOffset?: number;
  /** Whether pages are read past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  /** Sockets: the destination waits with TLS, and this side is the client. */
  readonly tls?: TlsCredentials;
  /**
   * Extra connections for the pages, 1 to 255: the destination's `multifd` capability must be on, and its
   * `multifd-channels` the same. None when not given.
   */
  readonly channels?: number;
  /**
   * When the channels wait for each other. It depends on the destination's machine type, and for one without a version the
   * default is that of QEMU 8.1 and newer, `round`; so this is for those, and for QEMUs that were told otherwise. With the
   * wrong one QEMU waits for ever or, where few pages have content, runs the guest without them.
   */
  readonly multifdSync?: MultifdSyncMode;
  /** The destination's UUID, for `channels`; the default is the one in the file, if it has one, else zeros. */
  readonly uuid?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** A sentence for people: that the destination has taken nothing for long. */
  readonly onMessage?: (message: string) => void;
}

/**
 * Sends a mapped-ram file to a QEMU that waits at the URI. Over a socket it returns when the destination has said that it
 * loaded everything; over a pipe when everything is written, and to a command when that has ended well.
 *
 * @throws UsageError for a destination that is a file, and for channels where it is no socket; FormatError for a bad file,
 *   before anything is sent; MachineError; CancelledError.
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
  checkMultifdOptions(options);
  const uuid = options.uuid === undefined ? undefined : parseUuid(options.uuid);
  const { channels: channelCount, signal, onProgress, onMessage } = options;
  if (channelCount !== undefined && uri.kind !== "unix" && uri.kind !== "tcp") {
    throw new UsageError("Several channels need an address that can be connected to more than once", {
      hint: "use unix:PATH or tcp:HOST:PORT",
    });
  }
  const file = ReadableFile.open(path, { directIo: options.directIo ?? "off" });
  try {
    const skeleton = openMappedRam(file, options.streamOffset ?? 0);
    checkPageBitmaps(file, skeleton.blocks);
    const { sink, returnPath } = await openOutgoing(uri, { ...options, directIo: "off" });
    let channels: readonly SocketChannel[] = [];
    try {
      let multifd: SendOptions["multifd"];
      if (channelCount !== undefined && (uri.kind === "unix" || uri.kind === "tcp")) {
        const wanted = { count: channelCount, uuid: uuid ?? skeleton.configuration.uuid ?? NO_UUID };
        channels = await openMultifdChannels(uri, wanted, options);
        multifd = { channels, file, ...multifdOptions(skeleton, options) };
      }
      return await sendMappedRam(file, skeleton, sink, {
        ...(signal === undefined ? {} : { signal }),
        ...(onProgress === undefined ? {} : { onProgress }),
        ...(onMessage === undefined ? {} : { onMessage }),
        ...(returnPath === undefined ? {} : { returnPath }),
        ...(multifd === undefined ? {} : { multifd }),
      });
    } catch (error) {
      throw withReason(error);
    } finally {
      await closeChannels(channels);
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

const NO_UUID = new Uint8Array(16);

function multifdOptions(
  { configuration }: MappedRamFile,
  options: SendSnapshotOptions,
): Omit<NonNullable<SendOptions["multifd"]>, "channels" | "file"> {
  return {
    syncMode: options.multifdSync ?? multifdSyncModeOf(configuration.machine) ?? "round",
    ...packetCompressionOf(options),
  };
}
