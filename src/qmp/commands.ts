/**
 * The commands that ramport uses: their arguments, and checks for their answers.
 *
 * @module
 */
import * as v from "valibot";
import { versionSchema, type QemuVersion } from "./messages.js";
import {
  migrationCapabilitiesSchema,
  migrationInfoSchema,
  migrationParametersSchema,
  type MigrationCapability,
  type MigrationParameters,
} from "./migration-types.js";
import type {
  MigrateArgs,
  MigrateIncomingArgs,
  MigrationInfo,
  MigrationStatus,
  RunState,
} from "../qapi/index.js";

/** Answer of `query-status`. */
export interface StatusInfo {
  /** Whether the guest's CPUs run. */
  readonly running: boolean;
  readonly status: RunState;
}

/** Answer of `query-memory-size-summary`, in bytes. */
export interface MemorySizeSummary {
  /** RAM from `-m`, without what was plugged in later. */
  readonly "base-memory": number;
  readonly "plugged-memory"?: number;
}

/** One entry of `query-qmp-schema`; what else it has depends on `meta-type`. */
export interface SchemaEntry {
  readonly name: string;
  readonly "meta-type": string;
  readonly [field: string]: unknown;
}

/** One entry of `query-machines`. */
export interface MachineInfo {
  readonly name: string;
  readonly alias?: string;
  readonly "is-default"?: boolean;
  /** Name of the machine's RAM block, where no backend is named for it. Since 5.2. */
  readonly "default-ram-id"?: string;
}

interface Command<Args, Returns> {
  readonly args: Args;
  readonly returns: Returns;
}

/** Arguments of `object-add`: the kind of object, its name, and properties that go with the kind. */
export interface ObjectAddArgs {
  readonly "qom-type": string;
  readonly id: string;
  readonly [property: string]: unknown;
}

/** One property of an object, as `qom-list` has it: an object in another one is a property of type `child<...>`. */
export interface QomProperty {
  readonly name: string;
  readonly type: string;
}

/** The typed commands by QEMU's names: `args` is undefined for those without, `returns` for those without an answer. */
export interface QmpCommands {
  "query-status": Command<undefined, StatusInfo>;
  stop: Command<undefined, undefined>;
  cont: Command<undefined, undefined>;
  quit: Command<undefined, undefined>;
  "query-version": Command<undefined, QemuVersion>;
  "query-commands": Command<undefined, readonly { readonly name: string }[]>;
  "query-name": Command<undefined, { readonly name?: string }>;
  "query-uuid": Command<undefined, { readonly UUID: string }>;
  "query-memory-size-summary": Command<undefined, MemorySizeSummary>;
  "query-machines": Command<undefined, readonly MachineInfo[]>;
  "query-qmp-schema": Command<undefined, readonly SchemaEntry[]>;
  "query-migrate": Command<undefined, MigrationInfo>;
  "query-migrate-capabilities": Command<undefined, readonly MigrationCapability[]>;
  "query-migrate-parameters": Command<undefined, MigrationParameters>;
  "migrate-set-capabilities": Command<{ readonly capabilities: readonly MigrationCapability[] }, undefined>;
  "migrate-set-parameters": Command<MigrationParameters, undefined>;
  migrate: Command<MigrateArgs, undefined>;
  "object-add": Command<ObjectAddArgs, undefined>;
  "object-del": Command<{ readonly id: string }, undefined>;
  migrate_cancel: Command<undefined, undefined>;
  "migrate-incoming": Command<MigrateIncomingArgs, undefined>;
  /** Lets a destination in `postcopy-paused` listen for its source again. May run out of band. */
  "migrate-recover": Command<{ readonly uri: string }, undefined>;
  /** Breaks the connection of a postcopy migration, so that it can be recovered. May run out of band. */
  "migrate-pause": Command<undefined, undefined>;
  /** What the human monitor prints for a line. */
  "human-monitor-command": Command<{ readonly "command-line": string }, string>;
  "qom-list": Command<{ readonly path: string }, readonly QomProperty[]>;
  /** The answer is the property's value, of whatever type it has. */
  "qom-get": Command<{ readonly path: string; readonly property: string }, unknown>;
  "qom-set": Command<
    { readonly path: string; readonly property: string; readonly value: unknown },
    undefined
  >;
  /** `state` is the state to leave, `pre-switchover`: a guard against answering a question that has passed. */
  "migrate-continue": Command<{ readonly state: MigrationStatus }, undefined>;
}

/** Name of a typed command. */
export type QmpCommandName = keyof QmpCommands;

/** Arguments of a typed command. */
export type QmpArgs<C extends QmpCommandName> = QmpCommands[C]["args"];

/** Answer of a typed command. */
export type QmpReturn<C extends QmpCommandName> = QmpCommands[C]["returns"];

// Commands without an answer get `{}`; a later QEMU may put something in, which is nobody's business here.
const nothing: v.GenericSchema<unknown, undefined> = v.pipe(
  v.unknown(),
  v.transform(() => undefined),
);

/** Checks for the answers. Fields that are not named pass or are left out, but never make an answer fail. */
export const answerSchemas: { readonly [C in QmpCommandName]: v.GenericSchema<unknown, QmpReturn<C>> } = {
  "query-status": v.object({ running: v.boolean(), status: v.string() }),
  stop: nothing,
  cont: nothing,
  quit: nothing,
  "query-version": versionSchema,
  "query-commands": v.array(v.object({ name: v.string() })),
  "query-name": v.object({ name: v.exactOptional(v.string()) }),
  "query-uuid": v.object({ UUID: v.string() }),
  "query-memory-size-summary": v.object({
    "base-memory": v.number(),
    "plugged-memory": v.exactOptional(v.number()),
  }),
  "query-machines": v.array(
    v.object({
      name: v.string(),
      alias: v.exactOptional(v.string()),
      "is-default": v.exactOptional(v.boolean()),
      "default-ram-id": v.exactOptional(v.string()),
    }),
  ),
  "query-qmp-schema": v.array(v.looseObject({ name: v.string(), "meta-type": v.string() })),
  "query-migrate": migrationInfoSchema,
  "query-migrate-capabilities": migrationCapabilitiesSchema,
  "query-migrate-parameters": migrationParametersSchema,
  "migrate-set-capabilities": nothing,
  "migrate-set-parameters": nothing,
  migrate: nothing,
  "object-add": nothing,
  "object-del": nothing,
  migrate_cancel: nothing,
  "migrate-incoming": nothing,
  "migrate-recover": nothing,
  "migrate-pause": nothing,
  "human-monitor-command": v.string(),
  "qom-list": v.array(v.object({ name: v.string(), type: v.string() })),
  "qom-get": v.unknown(),
  "qom-set": nothing,
  "migrate-continue": nothing,
};
