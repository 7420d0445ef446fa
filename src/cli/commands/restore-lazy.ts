import { parseFileWithOffset } from "../../channels/uri.js";
import { QmpClient } from "../../qmp/client.js";
import type { LazyGuest, LazyRestoreOptions, LazyRestoreResult } from "../../session/lazy-options.js";
import { restoreVmLazily } from "../../session/restore-lazy.js";
import { type CommandContext, type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";
import { guestLine, resultLines } from "../lazy-words.js";
import { type TlsFlags, tlsFrom } from "../tls-options.js";
import { qmpAddressOf, withQmp } from "./connect.js";

/** The options of a lazy restore, as they are parsed. */
export interface LazyFlags {
  readonly then?: "run" | "pause";
  readonly via?: string;
  readonly preempt?: "auto" | "on" | "off";
  readonly rateLimit?: number;
  readonly cluster?: number;
  readonly prefetch?: "before" | "after" | "off";
  readonly prefetchBudget?: number;
  readonly workingSet?: string;
  readonly detach?: boolean;
  readonly log?: string;
  /** Set for the process that `--detach` leaves behind. */
  readonly detachedServer?: boolean;
}

type Flags = CommonOptions & TlsFlags & LazyFlags & { readonly qmp: string };

/** `ramport restore --lazy`. */
export async function restoreLazily(file: string, options: Flags): Promise<void> {
  if (options.detach === true) {
    const { restoreDetached } = await import("./restore-detached.js");
    await restoreDetached(options);
    return;
  }
  if (options.detachedServer === true) {
    const { serveDetached } = await import("./restore-detached.js");
    await serveDetached(options, (context, onGuest) => serve(file, options, context, onGuest));
    return;
  }
  const result = await withContext(options, (context) =>
    serve(file, options, context, (guest) => {
      context.onMessage(guestLine(guest));
      stayForGuest(context, guest);
    }),
  );
  printResult(options, result, resultLines(result));
}

/** Runs the restore to its end; the QEMU's monitor is let go of where another process is to have it. */
async function serve(
  file: string,
  options: Flags,
  context: CommandContext,
  onGuest: (guest: LazyGuest) => void,
): Promise<LazyRestoreResult> {
  const { path, offset } = parseFileWithOffset(file);
  const address = qmpAddressOf(options.qmp);
  const lazy: LazyRestoreOptions = {
    ...context,
    ...tlsFrom(options),
    ...pick(options, ["then", "via", "preempt", "prefetch", "workingSet"]),
    ...(options.rateLimit === undefined ? {} : { fillBytesPerSecond: options.rateLimit }),
    ...(options.cluster === undefined ? {} : { clusterBytes: options.cluster }),
    ...(options.prefetchBudget === undefined ? {} : { prefetchBytes: options.prefetchBudget }),
    ...(options.detachedServer === true
      ? { reconnect: (limits) => QmpClient.connect(address, { oob: "auto", ...limits }) }
      : {}),
    streamOffset: offset,
    onGuest,
  };
  return withQmp(
    options.qmp,
    context.signal,
    (qmp, qmpPath) => restoreVmLazily(qmp, path, { ...lazy, ...(qmpPath === undefined ? {} : { qmpPath }) }),
    { oob: "auto" },
  );
}

/**
 * A guest that runs cannot do without its pages: the first Ctrl-C says so, and only the second one leaves it waiting. A
 * terminal that closes is no reason to leave it at all.
 */
function stayForGuest({ hearSignals, onMessage }: CommandContext, { remainingBytes }: LazyGuest): void {
  let warned = false;
  hearSignals((name) => {
    if (name === "SIGHUP") return true;
    if (name !== "SIGINT" || warned) return false;
    warned = true;
    onMessage(
      `The guest still needs ramport for its memory (up to ${bytes(remainingBytes)}): going on; ` +
        "Ctrl-C again leaves it waiting, until the same command is run again",
    );
    return true;
  });
}

/** Only what is there: undefined is no value of these options. */
function pick<T extends object, K extends keyof T>(
  options: T,
  names: readonly K[],
): { [N in K]?: Exclude<T[N], undefined> } {
  const entries = names.flatMap((name) => (options[name] === undefined ? [] : [[name, options[name]]]));
  return Object.fromEntries(entries) as { [N in K]?: Exclude<T[N], undefined> };
}
