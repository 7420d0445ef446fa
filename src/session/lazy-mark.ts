import { randomUUID } from "node:crypto";
import os from "node:os";
import process from "node:process";

import * as v from "valibot";

import { MachineError } from "../errors/index.js";
import { type QmpClient, QmpCommandError } from "../qmp/index.js";
import type { FileState } from "./file-changes.js";
import { ownStartTime, processState } from "./process-state.js";
import { removeQemuTls } from "./qemu-tls.js";
import { type FormerSettings, putBackSettings } from "./migration-settings.js";

/** The name of the object that holds the mark. */
export const MARK_ID = "ramport-lazy-restore";
const CONTAINER = "/objects";
/**
 * An access rule that no one refers to. It does nothing, every QEMU since 4.0 has it, and its text can be read again: a place
 * to leave a note that lives and dies with the QEMU.
 */
const TYPE = "authz-simple";
const PROPERTY = "identity";
/** A QEMU whose main thread waits for a page does not answer. */
const ANSWER_MS = 2000;

const whole = v.pipe(v.string(), v.regex(/^-?\d{1,20}$/));
const schema = v.object({
  version: v.literal(2),
  fingerprint: v.string(),
  path: v.string(),
  offset: v.number(),
  /** What the file was, in decimal: its device, inode and size, and when it was last written to in nanoseconds. */
  file: v.object({ dev: whole, ino: whole, size: whole, mtimeNs: whole }),
  /** The restore that serves the pages; absent when it has given up. */
  server: v.optional(
    v.object({
      pid: v.number(),
      host: v.string(),
      /** When the process began, as the system says it: a number is given to another process later. */
      startTime: v.optional(v.string()),
      /** Of the restore: a process can have several. */
      id: v.string(),
    }),
  ),
  /** The object with the TLS credentials, where the restore made one. */
  tlsObject: v.optional(v.string()),
  former: v.object({
    capabilities: v.array(v.tuple([v.string(), v.boolean()])),
    parameters: v.record(v.string(), v.unknown()),
    channelParameters: v.record(v.string(), v.unknown()),
  }),
});

/**
 * What a lazy restore leaves in the QEMU that it fills: which snapshot its pages come from, which process serves them, and
 * what the migration settings were. A process that takes the work up knows from it that it has the right file.
 */
export interface LazyMark extends Omit<v.InferOutput<typeof schema>, "former"> {
  readonly former: FormerSettings;
}

/** Restores of this process that serve pages. */
const serving = new Set<string>();

/** What is restored, and what has to be put back when it is. */
export type MarkContent = Pick<LazyMark, "fingerprint" | "path" | "offset" | "tlsObject" | "former"> & {
  readonly file: FileState;
};

/** A mark by this process, which serves from now on: {@link stopServing} says when it does not. */
export function makeMark({ file, ...content }: MarkContent): LazyMark {
  const id = randomUUID();
  serving.add(id);
  const startTime = ownStartTime();
  const [dev, ino, size, mtimeNs] = [file.dev, file.ino, file.size, file.mtimeNs].map(String);
  return {
    version: 2,
    ...content,
    file: { dev, ino, size, mtimeNs } as LazyMark["file"],
    server: { pid: process.pid, host: os.hostname(), id, ...(startTime === undefined ? {} : { startTime }) },
  };
}

/** To be called when the restore that made a mark ends, however it does. */
export function stopServing({ server }: LazyMark): void {
  if (server !== undefined) serving.delete(server.id);
}

/**
 * Leaves the mark; only one restore can.
 *
 * @throws MachineError `not-capable` when there is a mark already.
 */
export async function leaveMark(qmp: QmpClient, mark: LazyMark): Promise<void> {
  try {
    await qmp.execute("object-add", { "qom-type": TYPE, id: MARK_ID, [PROPERTY]: JSON.stringify(mark) });
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    const message =
      "This QEMU cannot be marked as one that is restored lazily: another restore may have begun";
    throw new MachineError("not-capable", message, {}, error);
  }
}

/** Puts another mark in the place of the one that there is. */
export async function replaceMark(qmp: QmpClient, mark: LazyMark): Promise<void> {
  const value = JSON.stringify(mark);
  await qmp.execute("qom-set", { path: `${CONTAINER}/${MARK_ID}`, property: PROPERTY, value });
}

/** Says in the mark that nobody serves the pages any more; does not throw, and does not wait for long. */
export async function giveUpMark(qmp: QmpClient, mark: LazyMark): Promise<void> {
  const value = JSON.stringify({ ...mark, server: undefined });
  const args = { path: `${CONTAINER}/${MARK_ID}`, property: PROPERTY, value };
  await qmp.execute("qom-set", args, { timeoutMs: ANSWER_MS }).catch(() => undefined);
}

/**
 * Reads the mark.
 *
 * @returns undefined when there is none, or one that is not understood.
 */
export async function readMark(qmp: QmpClient): Promise<LazyMark | undefined> {
  const objects = await qmp.execute("qom-list", { path: CONTAINER });
  if (!objects.some(({ name }) => name === MARK_ID)) return undefined;
  const text = await qmp.execute("qom-get", { path: `${CONTAINER}/${MARK_ID}`, property: PROPERTY });
  try {
    const result = v.safeParse(schema, JSON.parse(String(text)));
    return result.success ? result.output : undefined;
  } catch {
    return undefined;
  }
}

/** Leaves nothing of a restore in the QEMU, and the mark last; does not throw. */
export async function tidyUp(qmp: QmpClient, { former, tlsObject }: LazyMark): Promise<void> {
  await putBackSettings(qmp, former);
  if (tlsObject !== undefined) await removeQemuTls(qmp, tlsObject);
  await qmp.execute("object-del", { id: MARK_ID }).catch(() => undefined);
}

/** Whether the restore that left the mark still serves; undefined when its process is on another machine. */
export function isServerAlive({ server }: LazyMark): boolean | undefined {
  if (server === undefined) return false;
  const { pid, host, startTime, id } = server;
  if (host !== os.hostname()) return undefined;
  const state = processState(pid);
  if (!state.isAlive) return false;
  // Of another user's process the system may not tell when it began.
  if (startTime !== undefined && state.startTime !== undefined && state.startTime !== startTime) return false;
  return pid !== process.pid || serving.has(id);
}

/** Who serves, in words. */
export function serverName({ server }: LazyMark): string {
  return server === undefined ? "a process" : `process ${server.pid} on ${server.host}`;
}
