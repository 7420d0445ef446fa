import type { ByteSink, ByteSource } from "../../channels/index.js";
import { CancelledError } from "../../errors/index.js";
import type { Clock } from "../clock.js";
import type { MigrationHost } from "../host.js";
import type { PostcopyStatistics } from "../postcopy/postcopy-host.js";
import type { ProgressListener } from "../progress.js";
import { checkStopped, type IncomingRules } from "./host-checks.js";
import { HostTarget } from "./host-target.js";
import { HostPostcopy, type LoadPostcopyOptions } from "./postcopy/host-postcopy.js";
import { receiveMigration } from "./receive.js";

/** Options of {@link loadHostFromStream}. */
export interface LoadStreamOptions {
  /** Default: nothing is shared. */
  readonly rules?: IncomingRules;
  /** Where the end is confirmed, when the source opens a return path. Postcopy needs it. */
  readonly returnPath?: ByteSink;
  /** How a migration that goes over to postcopy is loaded. Without it the guest is left standing until all has come. */
  readonly postcopy?: LoadPostcopyOptions;
  readonly clock?: Clock;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** What was loaded. */
export interface LoadStreamResult {
  /** Page records as they came, re-dirtied pages each time. */
  readonly pages: { readonly normal: number; readonly zero: number };
  readonly receivedBytes: number;
  /** Whether the source's guest ran. */
  readonly wasRunning: boolean;
  /** Whether the guest slept then: see {@link MigrationHost.suspended}. */
  readonly wasSuspended: boolean;
  /** What came after the migration went over to postcopy, which {@link pages} has too; undefined when it did not. */
  readonly postcopy?: PostcopyStatistics;
}

/**
 * Loads a migration into an embedded machine. The machine's name, the blocks and their lengths are checked before the
 * first page, the devices before any of them is loaded. The source is told that all is well when all is in place: with
 * precopy, only after this returns may the guest run.
 *
 * When the source goes over to postcopy, the devices are loaded while pages are missing, and the guest runs from
 * `postcopy.onRun` on; a connection that breaks after that pauses the migration until `recover` of its listening side.
 * This returns when all has come.
 *
 * @throws FormatError when the stream is damaged or not of such a machine; MachineError `connection-closed` also when the
 *   source could not be told, since it then has its guest back, `not-capable` when it goes over to postcopy and the machine
 *   cannot, `migration-failed` when it was broken off after the guest had begun to run here: it is lost then; UsageError when
 *   the guest runs; CancelledError. What fails once pages have come leaves a host that is good for nothing but another load.
 */
export async function loadHostFromStream(
  host: MigrationHost,
  source: ByteSource,
  options: LoadStreamOptions = {},
): Promise<LoadStreamResult> {
  checkStopped(host);
  const { rules = { ignoreShared: false }, postcopy: postcopyOptions = {}, ...receiving } = options;
  const target = new HostTarget(host, rules);
  const postcopy = new HostPostcopy(host, target, source, options.returnPath, postcopyOptions, rules);
  // The machine's page size is not in its stream: both sides are the same machine.
  const received = await receiveMigration(source, target, {
    ...receiving,
    postcopy,
    targetPageSize: host.pageSize,
    describesAllDevices: true,
  });
  const { receivedBytes } = received;
  if (postcopy.isTaken) return loadByPostcopy(target, postcopy, receivedBytes, options.signal);
  target.load();
  await received.confirm();
  return {
    pages: target.pages,
    receivedBytes,
    wasRunning: target.guest.wasRunning,
    wasSuspended: target.guest.wasSuspended,
  };
}

async function loadByPostcopy(
  target: HostTarget,
  postcopy: HostPostcopy,
  precopyBytes: number,
  signal: AbortSignal | undefined,
): Promise<LoadStreamResult> {
  const abort = (): void => postcopy.abort(new CancelledError(undefined, signal?.reason));
  signal?.addEventListener("abort", abort, { once: true });
  try {
    if (signal?.aborted === true) abort();
    const statistics = await postcopy.ended();
    const { normal, zero } = target.pages;
    return {
      pages: { normal: normal + statistics.pages.normal, zero: zero + statistics.pages.zero },
      receivedBytes: precopyBytes + statistics.receivedBytes,
      ...postcopy.guest,
      postcopy: statistics,
    };
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
