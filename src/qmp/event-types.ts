/**
 * The events that ramport uses, with their data.
 *
 * @module
 */
import * as v from "valibot";
import type { MigrationStatus } from "../qapi/index.js";
import type { QmpTimestamp } from "./messages.js";

/** An event's data when QEMU sends none. */
export type NoData = Readonly<Record<string, unknown>>;

/** Data of `SHUTDOWN` and `RESET`. */
export interface ShutdownData {
  /** Whether the guest asked for it (else: the host side). */
  readonly guest: boolean;
  /** QEMU's ShutdownCause: `guest-shutdown`, `host-qmp-quit`, `host-signal`, ... */
  readonly reason: string;
}

/** Data of the events whose shape ramport knows and checks, by QEMU's event name. */
export interface QmpEventData {
  /** The state of a migration changed; sent only with the migration capability `events`. */
  MIGRATION: { readonly status: MigrationStatus };
  /** A pass over the dirty pages begins; needs the capability `events` as well. */
  MIGRATION_PASS: { readonly pass: number };
  STOP: NoData;
  RESUME: NoData;
  SHUTDOWN: ShutdownData;
  RESET: ShutdownData;
}

/** An event; `data` is checked when its name is a key of {@link QmpEventData}, and empty when QEMU sends none. */
export interface QmpEvent<N extends string = string> {
  readonly name: N;
  readonly data: N extends keyof QmpEventData ? QmpEventData[N] : Readonly<Record<string, unknown>>;
  readonly timestamp: QmpTimestamp;
}

/** Whether an event has this name; gives its data their type. */
export function isQmpEvent<N extends string>(event: QmpEvent, name: N): event is QmpEvent<N> {
  return event.name === name;
}

const shutdownSchema = v.looseObject({ guest: v.boolean(), reason: v.string() });

/** Checks for the data of known events; fields beyond these pass unchanged. */
export const eventDataSchemas: ReadonlyMap<
  string,
  v.GenericSchema<unknown, Record<string, unknown>>
> = new Map<string, v.GenericSchema<unknown, Record<string, unknown>>>([
  ["MIGRATION", v.looseObject({ status: v.string() })],
  ["MIGRATION_PASS", v.looseObject({ pass: v.number() })],
  ["SHUTDOWN", shutdownSchema],
  ["RESET", shutdownSchema],
]);
