import { CancelledError, throwIfAborted } from "../../errors/index.js";
import { DEFAULT_CAPABILITIES, DEFAULT_PARAMETERS, type MigrationInfo } from "../../qapi/index.js";
import type { Clock } from "../clock.js";
import type { MigrationHost } from "../host.js";
import type { PositionedFile } from "../mapped-ram/positioned-file.js";
import type { ProgressListener } from "../progress.js";
import { checkChannels } from "../mapped-ram/channels.js";
import { MappedRamTarget } from "./mapped-ram-target.js";
import { OutgoingMigration } from "./outgoing-migration.js";

/** Options of {@link saveHost}. */
export interface SaveHostOptions {
  /** Whether a running guest goes on while most of its memory is written; default true. */
  readonly live?: boolean;
  /**
   * Rounds over changed memory with the guest running, the first one over all of it included; default 10. The guest is
   * stopped after so many however much it changes: the file does not grow, but the last round gets no shorter either.
   */
  readonly maxRounds?: number;
  /** The guest is stopped as soon as its changed pages can be written within this time; default 100 ms. */
  readonly downtimeLimitMs?: number;
  /**
   * How many pieces of memory are written at a time, each in a thread of Node's pool (of which there are four unless
   * UV_THREADPOOL_SIZE says otherwise): 1 to 255. Without it this thread gathers pages and writes them.
   */
  readonly channels?: number;
  /** Where the stream begins in the file; default 0. */
  readonly streamOffset?: number;
  readonly clock?: Clock;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /**
   * Makes the whole file durable and gives it its name: `() => file.commit()` of an OutputFile. It is part of the save:
   * when it fails, the guest runs on.
   */
  readonly commit?: () => Promise<void>;
}

/** What a save did. */
export interface SaveHostResult {
  /** In QEMU's terms: passes, pages, bytes, downtime. */
  readonly info: MigrationInfo;
  /** Length of the file. */
  readonly fileBytes: number;
}

const DEFAULT_ROUNDS = 10;
const DEFAULT_DOWNTIME_MS = 100;

/**
 * Saves an embedded machine into a mapped-ram file: an outgoing migration without any limit of its speed. The guest stays
 * stopped; when the save fails or is cancelled, one that ran before runs on and the file is worthless.
 *
 * @param file Empty from where the stream begins.
 * @throws UsageError for a number of channels that cannot be; CancelledError when the signal fires; whatever the host and the file throw.
 */
export async function saveHost(
  host: MigrationHost,
  file: PositionedFile,
  options: SaveHostOptions = {},
): Promise<SaveHostResult> {
  const { live = true, maxRounds = DEFAULT_ROUNDS, downtimeLimitMs = DEFAULT_DOWNTIME_MS } = options;
  const { signal, commit, clock, onProgress, channels, streamOffset = 0 } = options;
  throwIfAborted(signal);
  if (channels !== undefined) checkChannels(channels);
  let rounds = 0;
  let fileBytes = 0;
  const target = new MappedRamTarget(file, {
    startOffset: streamOffset,
    ...(channels === undefined ? {} : { channels }),
    commit: async () => {
      // It may be closed afterwards.
      fileBytes = file.sizeBytes;
      await commit?.();
    },
  });
  const migration = new OutgoingMigration(host, target, {
    capabilities: { ...DEFAULT_CAPABILITIES, "mapped-ram": true },
    parameters: () => ({
      ...DEFAULT_PARAMETERS,
      "max-bandwidth": 0,
      "downtime-limit": rounds >= maxRounds ? Number.POSITIVE_INFINITY : downtimeLimitMs,
    }),
    live,
    onPass: (pass) => {
      rounds = pass;
    },
    ...(clock === undefined ? {} : { clock }),
    ...(onProgress === undefined ? {} : { onProgress }),
  });
  const cancel = (): void => migration.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    await migration.run();
    return { info: migration.info, fileBytes };
  } catch (error) {
    throw signal?.aborted === true && !(error instanceof CancelledError)
      ? new CancelledError(undefined, error)
      : error;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}
