import {
  type ByteSink,
  type DirectIo,
  type MigrationUri,
  OutputFile,
  type TlsCredentials,
} from "../channels/index.js";
import {
  MappedRamWriter,
  type MultifdReceiving,
  type MultifdSyncMode,
  openMappedRam,
  type PageCounts,
  type ProgressListener,
  readMappedRamTail,
  receiveMigration,
} from "../engine/index.js";
import { openIncomingConnections } from "./incoming-connections.js";

/** How to receive a migration into a file. */
export interface ReceiveSnapshotOptions {
  /** Replace an existing file. */
  readonly replace?: boolean;
  /** Whether pages are written past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  /** Bytes; for guests whose target page is not 4096 bytes and whose stream does not say so. */
  readonly targetPageSize?: number;
  /** Connections that the source's pages come over beside the main one (its `multifd-channels`); none when not given. */
  readonly channels?: number;
  /** How the source syncs its channels; without it the machine type says so. */
  readonly multifdSync?: MultifdSyncMode;
  /** The same, for machine types that do not say it. */
  readonly otherwiseMultifdSync?: MultifdSyncMode;
  /** Sockets: the source has to migrate with TLS, and this side is the server. */
  readonly tls?: TlsCredentials;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** A sentence for people: that the source is not held back until the file is safe. */
  readonly onMessage?: (message: string) => void;
  /** Called when a socket listens, with the URI that a source can be pointed at. */
  readonly onListening?: (uri: string) => void;
}

/** A snapshot file that was written. Sizes are in bytes. */
export interface WrittenSnapshot {
  readonly path: string;
  readonly machine: string;
  readonly ramBytes: number;
  readonly fileBytes: number;
  /** What the file takes on its device: it is sparse. */
  readonly allocatedBytes: number;
  /** Page records as they arrived; a page that came twice counts twice. */
  readonly pages: PageCounts;
  readonly receivedBytes: number;
}

/**
 * Waits for an incoming migration and writes it as a mapped-ram file, whole or not at all. A source that opened a return
 * path is told that all is well only when the file is on its device; until then it keeps its guest ready to go on.
 *
 * A source without one (QEMU's `return-path` capability is off, or the stream comes from a file or pipe) cannot be held
 * back: for it the migration has succeeded when it has written its last byte, whatever becomes of the file.
 *
 * @throws UsageError when the output exists; FormatError for a bad stream; MachineError; CancelledError. No file is left,
 *   and one that was to be replaced is as it was.
 */
export async function receiveSnapshot(
  uri: MigrationUri,
  outputPath: string,
  options: ReceiveSnapshotOptions = {},
): Promise<WrittenSnapshot> {
  const output = OutputFile.create(outputPath, {
    replace: options.replace ?? false,
    directIo: options.directIo ?? "off",
  });
  try {
    const incoming = await openIncomingConnections(uri, options);
    try {
      const writer = new MappedRamWriter(output);
      const returnPath = incoming.returnPath === undefined ? undefined : new Answers(incoming.returnPath);
      const received = await receiveMigration(incoming.source, writer, {
        ...options,
        ...(returnPath === undefined ? {} : { returnPath }),
        ...(incoming.multifd === undefined ? {} : { multifd: multifdOf(incoming.multifd, options) }),
      });
      // Read back what a loader will read: a file that does not open must not get its name.
      const skeleton = openMappedRam(output);
      readMappedRamTail(output, skeleton);
      const { sizeBytes: fileBytes, allocatedBytes } = output;
      await output.publish(options.signal);
      try {
        await received.confirm();
      } catch (error) {
        // The source has not heard it: there the guest goes on, and this file is not where it went.
        output.takeBack();
        throw error;
      }
      output.settle();
      if (returnPath?.used === false) options.onMessage?.(NOT_HELD_BACK);
      return {
        path: output.path,
        machine: skeleton.configuration.machine,
        ramBytes: skeleton.totalBytes,
        fileBytes,
        allocatedBytes,
        pages: writer.pageCounts,
        receivedBytes: received.receivedBytes,
      };
    } finally {
      await incoming.close();
    }
  } finally {
    output.discard();
  }
}

function multifdOf(
  multifd: Omit<MultifdReceiving, "syncMode" | "otherwiseSyncMode">,
  { multifdSync, otherwiseMultifdSync }: ReceiveSnapshotOptions,
): MultifdReceiving {
  return {
    ...multifd,
    ...(multifdSync === undefined ? {} : { syncMode: multifdSync }),
    ...(otherwiseMultifdSync === undefined ? {} : { otherwiseSyncMode: otherwiseMultifdSync }),
  };
}

const NOT_HELD_BACK =
  "The source had no return path: it did not wait until the file was safe (to make it wait, turn its return-path capability on)";

/** The way back to a source, which notes whether the source opened it: only then something is written to it. */
class Answers implements ByteSink {
  used = false;
  readonly #sink: ByteSink;

  constructor(sink: ByteSink) {
    this.#sink = sink;
  }

  write(bytes: Uint8Array): Promise<void> {
    this.used = true;
    return this.#sink.write(bytes);
  }

  end(): Promise<void> {
    return this.#sink.end();
  }

  close(): Promise<void> {
    return this.#sink.close();
  }
}
