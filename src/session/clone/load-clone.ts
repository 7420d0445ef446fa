import fs from "node:fs";

import { formatMigrationUri, type MigrationUri } from "../../channels/index.js";
import { MachineError, printable } from "../../errors/index.js";
import type { QmpClient } from "../../qmp/index.js";
import { incomingArguments } from "../restore-method.js";
import type { MappedBlock } from "./memory-plan.js";

/** What a QEMU that waits for its residual stream has to be. */
export interface WaitingClone {
  readonly qmp: QmpClient;
  /** The snapshot that it maps. */
  readonly snapshotPath: string;
  readonly mapped: readonly MappedBlock[];
  readonly mainBackend?: string;
}

/** How to load. */
export interface LoadCloneOptions {
  /** What the guest does afterwards; the default is what it did when it was saved. */
  readonly then?: "run" | "pause";
  readonly signal?: AbortSignal;
}

/** Where the residual stream comes from. */
export interface ResidualSource {
  readonly uri: MigrationUri;
  /** Sends it, once the QEMU listens; a file needs nobody. */
  readonly send?: () => Promise<void>;
}

/** A clone that is loaded. */
export interface LoadedClone {
  readonly guest: "running" | "paused";
  /** From the request to load until the guest runs, or is loaded and paused. */
  readonly restoreMs: number;
}

/**
 * Prepares a QEMU that was started with `-incoming defer`: makes sure that its memory is the snapshot's page areas, which
 * nothing in the stream would tell, and turns on the events that {@link loadClone} waits for.
 *
 * @throws MachineError `not-capable` when something in its configuration has another say on its memory; `qmp`.
 */
export async function prepareClone(clone: WaitingClone, { then }: LoadCloneOptions = {}): Promise<void> {
  const { qmp, mapped, mainBackend, snapshotPath } = clone;
  const get = (path: string, property: string): Promise<unknown> =>
    qmp.execute("qom-get", { path, property });
  const expectProperty = async (path: string, property: string, wanted: unknown): Promise<void> => {
    const actual = await get(path, property);
    if (actual === wanted) return;
    if (property === "mem-path" && isSameFile(String(actual), snapshotPath)) return;
    throw new MachineError(
      "not-capable",
      `The memory of this QEMU is not the snapshot: ${path} has ${property}=${printable(String(actual))}`,
      { expected: String(wanted), hint: "does a -readconfig, -set or -global change its memory?" },
    );
  };
  // All at once: each of them alone would be a round trip.
  await Promise.all([
    ...mapped.flatMap(({ id, offset, sizeBytes }) =>
      Object.entries({
        "mem-path": snapshotPath,
        offset,
        size: sizeBytes,
        share: false,
        readonly: true,
      }).map(([property, wanted]) => expectProperty(`/objects/${id}`, property, wanted)),
    ),
    ...(mainBackend === undefined
      ? []
      : [expectProperty("/machine", "memory-backend", `/objects/${mainBackend}`)]),
    qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] }),
    // Before the load these two only say what happens after it.
    ...(then === undefined ? [] : [qmp.execute(then === "run" ? "cont" : "stop")]),
  ]);
}

/**
 * Loads the residual stream into a QEMU that {@link prepareClone} has prepared.
 *
 * @throws MachineError `migration-failed` with QEMU's words, `connection-closed` when it ended over it; CancelledError.
 */
export async function loadClone(
  qmp: QmpClient,
  { uri, send }: ResidualSource,
  { then, signal }: LoadCloneOptions = {},
): Promise<LoadedClone> {
  const startMs = performance.now();
  const limits = signal === undefined ? {} : { signal };
  const ended = qmp.waitForEvent(
    "MIGRATION",
    ({ data: { status } }) => status === "completed" || status === "failed",
    limits,
  );
  // It may fail while the command below does.
  ended.catch(() => undefined);
  await qmp.execute("migrate-incoming", incomingArguments(qmp, formatMigrationUri(uri)), limits);
  try {
    await send?.();
  } catch (error) {
    // A QEMU that fails closes its end first, and says why in its own words.
    if (!(error instanceof MachineError) || error.code !== "connection-closed") throw error;
  }
  const { data } = await ended;
  // QEMU says so when everything has happened, and the guest runs.
  const restoreMs = performance.now() - startMs;
  if (data.status === "failed") {
    const { "error-desc": reason } = await qmp.execute("query-migrate");
    throw new MachineError("migration-failed", `QEMU's migration failed: ${reason ?? "no reason given"}`);
  }
  if (then === "run") await qmp.execute("cont");
  const { running } = await qmp.execute("query-status");
  return { guest: running ? "running" : "paused", restoreMs };
}

/** Whether two paths lead to one file: QEMU keeps a path as it was written. */
export function isSameFile(path: string, other: string): boolean {
  const [one, two] = [path, other].map((each) => fs.statSync(each, { throwIfNoEntry: false }));
  return one !== undefined && one.ino === two?.ino && one.dev === two.dev;
}
