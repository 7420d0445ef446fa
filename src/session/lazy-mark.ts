import os from "node:os";
import process from "node:process";

import * as v from "valibot";

import { errnoCode } from "../channels/index.js";
import { MachineError } from "../errors/index.js";
import { type QmpClient, QmpCommandError } from "../qmp/index.js";
import type { FormerSettings } from "./migration-settings.js";

/** The name of the object that holds the mark. */
export const MARK_ID = "ramport-lazy-restore";
const CONTAINER = "/objects";
/**
 * An access rule that no one refers to. It does nothing, every QEMU since 4.0 has it, and its text can be read again: a place
 * to leave a note that lives and dies with the QEMU.
 */
const TYPE = "authz-simple";
const PROPERTY = "identity";

const schema = v.object({
  version: v.literal(1),
  fingerprint: v.string(),
  path: v.string(),
  offset: v.number(),
  pid: v.number(),
  host: v.string(),
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

/** A mark by this process. */
export function makeMark(mark: Omit<LazyMark, "version" | "pid" | "host">): LazyMark {
  return { version: 1, ...mark, pid: process.pid, host: os.hostname() };
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

/** Says in the mark that this process serves the pages now. */
export async function takeOverMark(qmp: QmpClient, mark: LazyMark): Promise<void> {
  const value = JSON.stringify(makeMark(mark));
  await qmp.execute("qom-set", { path: `${CONTAINER}/${MARK_ID}`, property: PROPERTY, value });
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

/** Takes the mark away; does not throw: it does no harm. */
export async function removeMark(qmp: QmpClient): Promise<void> {
  await qmp.execute("object-del", { id: MARK_ID }).catch(() => undefined);
}

/** Whether the process that left the mark lives; undefined when it is on another machine. */
export function isServerAlive({ pid, host }: LazyMark): boolean | undefined {
  if (host !== os.hostname()) return undefined;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoCode(error) === "EPERM";
  }
}
