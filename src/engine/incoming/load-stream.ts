import type { ByteSink, ByteSource } from "../../channels/index.js";
import type { Clock } from "../clock.js";
import type { MigrationHost } from "../host.js";
import type { ProgressListener } from "../progress.js";
import { checkStopped, type IncomingRules } from "./host-checks.js";
import { HostTarget } from "./host-target.js";
import { receiveMigration } from "./receive.js";

/** Options of {@link loadHostFromStream}. */
export interface LoadStreamOptions {
  /** Default: nothing is shared. */
  readonly rules?: IncomingRules;
  /** Where the end is confirmed, when the source opens a return path. */
  readonly returnPath?: ByteSink;
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
}

/**
 * Loads a precopy stream into an embedded machine. The machine's name, the blocks and their lengths are checked before the
 * first page, the devices before any of them is loaded. The source is told that all is well when all is in place: only
 * after this returns may the guest run.
 *
 * @throws FormatError when the stream is damaged or not of such a machine; MachineError `connection-closed` also when the
 *   source could not be told, since it then has its guest back; UsageError when the guest runs; CancelledError. What fails
 *   once pages have come leaves a host that is good for nothing but another load.
 */
export async function loadHostFromStream(
  host: MigrationHost,
  source: ByteSource,
  options: LoadStreamOptions = {},
): Promise<LoadStreamResult> {
  checkStopped(host);
  const { rules = { ignoreShared: false }, ...receiving } = options;
  const target = new HostTarget(host, rules);
  // The machine's page size is not in its stream: both sides are the same machine.
  const received = await receiveMigration(source, target, {
    ...receiving,
    targetPageSize: host.pageSize,
    describesAllDevices: true,
  });
  target.load();
  await received.confirm();
  return { pages: target.pages, receivedBytes: received.receivedBytes, wasRunning: target.wasRunning };
}
