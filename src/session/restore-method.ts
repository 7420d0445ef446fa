import type { ReadableFile, TlsCredentials } from "../channels/index.js";
import {
  IGNORE_SHARED_CAPABILITY,
  type MappedRamFile,
  type MultifdSendOptions,
  type ProgressListener,
} from "../engine/index.js";
import type { MigrateIncomingArgs, QmpClient } from "../qmp/index.js";
import type { MigrationAbilities } from "./migration-settings.js";
import type { SocketUri } from "./via.js";

/** The two ways of getting a mapped-ram file into a QEMU. */
export type RestoreMethodName =
  /** QEMU 9.0 and newer reads the file itself. */
  | "mapped-ram"
  /** Any QEMU: ramport reads the file and sends it as a precopy stream. */
  | "send";

/** One restore, as its method sees it. What the guest does afterwards is the caller's. */
export interface RestoreJob {
  readonly qmp: QmpClient;
  readonly abilities: MigrationAbilities;
  readonly file: ReadableFile;
  readonly skeleton: MappedRamFile;
  /** undefined where nothing was said of them. */
  readonly channels: number | undefined;
  readonly compression: Pick<MultifdSendOptions, "compression" | "compressionLevel">;
  readonly directIo: boolean;
  /** Path of the QMP socket; undefined when QMP is reached otherwise. */
  readonly qmpPath: string | undefined;
  /** Where QEMU listens instead of a private socket. */
  readonly via: SocketUri | undefined;
  /** For the socket that the stream travels over; undefined for none. */
  readonly tls: TlsCredentials | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ProgressListener | undefined;
  readonly onMessage: ((message: string) => void) | undefined;
}

/** Shared blocks that the file leaves out must be left out by the loader too. */
export function ignoreShared(skeleton: MappedRamFile): Readonly<Record<string, boolean>> {
  return skeleton.configuration.capabilities.includes(IGNORE_SHARED_CAPABILITY)
    ? { [IGNORE_SHARED_CAPABILITY]: true }
    : {};
}

/** Since 9.1 a QEMU can be told to stay and say why a load failed; before, it exits. */
export function incomingArguments(qmp: QmpClient, uri: string): MigrateIncomingArgs {
  const { major, minor } = qmp.version;
  return major > 9 || (major === 9 && minor >= 1) ? { uri, "exit-on-error": false } : { uri };
}
