import type { TlsCredentials } from "../channels/index.js";
import type { MultifdSendOptions, ProgressListener } from "../engine/index.js";
import type { MigrationInfo, QmpClient } from "../qmp/index.js";
import type { MigrationAbilities } from "./migration-settings.js";
import type { WrittenSnapshot } from "./receive.js";
import type { SocketUri } from "./via.js";

/** The two ways of getting a QEMU's memory into a mapped-ram file. */
export type SaveMethodName =
  /** QEMU 9.0 and newer writes the file itself. */
  | "mapped-ram"
  /** Any QEMU: it migrates into a socket, and ramport writes the file. */
  | "stream";

/** Where QEMU looks for zero pages: nowhere, in its main thread, in the channels' threads. */
export type ZeroPageDetectionName = "none" | "legacy" | "multifd";

/** One save, as its method sees it. The guest's run state and cancelling are the caller's. */
export interface SaveJob {
  readonly qmp: QmpClient;
  readonly abilities: MigrationAbilities;
  readonly outputPath: string;
  readonly live: boolean;
  readonly replace: boolean;
  /** undefined where nothing was said of them. */
  readonly channels: number | undefined;
  readonly directIo: boolean;
  /** How QEMU compresses the channels of the stream method. */
  readonly compression: Pick<MultifdSendOptions, "compression" | "compressionLevel">;
  /** QEMU's `zero-page-detection` (9.0 and newer); its own value when not given. */
  readonly zeroPageDetection: ZeroPageDetectionName | undefined;
  /** Bytes a second; 0 is no limit. */
  readonly maxBandwidth: number;
  /** Path of the QMP socket; undefined when QMP is reached otherwise. */
  readonly qmpPath: string | undefined;
  /** Where ramport listens instead of a socket of its own. */
  readonly via: SocketUri | undefined;
  /** For the socket that the stream travels over; undefined for none. */
  readonly tls: TlsCredentials | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ProgressListener | undefined;
  readonly onMessage: ((message: string) => void) | undefined;
  /** Called with each answer of query-migrate. */
  readonly onInfo: (info: MigrationInfo) => Promise<void>;
}

/** What a method has written, and what QEMU said at its end. */
export interface SavedByMethod {
  readonly snapshot: Omit<WrittenSnapshot, "receivedBytes">;
  readonly info: MigrationInfo;
}
