import { MachineError, UsageError } from "../errors/index.js";
import {
  capabilitiesAnswer,
  isKnownMigrationStatus,
  parametersAnswer,
  parseCapabilityChanges,
  parseParameterChanges,
} from "../qapi/index.js";
import type { JsonObject } from "../qapi/json-values.js";
import { type ArgumentTable, checkArguments, targetFrom } from "./arguments.js";
import type { MonitoredMachine } from "./machine.js";
import { monitorVersion } from "./version.js";

/** A command: what it takes and what it does. */
interface Command {
  /** Undefined where the command checks all of them itself. */
  readonly takes: ArgumentTable | undefined;
  /** Returns the answer; undefined is QEMU's empty object. */
  run(machine: MonitoredMachine, args: JsonObject): unknown;
}

const nothing: ArgumentTable = {};
const target: ArgumentTable = { "uri?": "string", "channels?": "array" };

/** QEMU's UUID of a machine that was given none. */
const NO_UUID = "00000000-0000-0000-0000-000000000000";

/** Every command that is answered once the capabilities are negotiated, by QEMU's name. */
const COMMANDS: Readonly<Record<string, Command>> = {
  "query-commands": {
    takes: nothing,
    run: () => [QMP_CAPABILITIES, ...Object.keys(COMMANDS)].map((name) => ({ name })),
  },
  "query-version": { takes: nothing, run: () => monitorVersion() },
  "query-status": {
    takes: nothing,
    run: ({ runState }) => ({ running: runState === "running", status: runState }),
  },
  "query-name": { takes: nothing, run: ({ name }) => (name === undefined ? {} : { name }) },
  "query-uuid": { takes: nothing, run: ({ uuid }) => ({ UUID: uuid ?? NO_UUID }) },
  "query-memory-size-summary": {
    takes: nothing,
    run: ({ memoryBytes }) => ({ "base-memory": memoryBytes, "plugged-memory": 0 }),
  },
  stop: { takes: nothing, run: (machine) => machine.stop() },
  cont: { takes: nothing, run: (machine) => machine.cont() },
  system_reset: { takes: nothing, run: (machine) => machine.reset() },
  system_wakeup: { takes: nothing, run: (machine) => machine.wakeUp() },
  quit: { takes: nothing, run: (machine) => machine.quit() },
  "query-migrate": { takes: nothing, run: ({ migration }) => migration.info() },
  "query-migrate-capabilities": {
    takes: nothing,
    run: ({ migration }) => capabilitiesAnswer(migration.capabilities),
  },
  "query-migrate-parameters": {
    takes: nothing,
    run: ({ migration }) => parametersAnswer(migration.parameters),
  },
  "migrate-set-capabilities": {
    takes: undefined,
    run: ({ migration }, args) => migration.setCapabilities(parseCapabilityChanges(args)),
  },
  "migrate-set-parameters": {
    takes: undefined,
    run: ({ migration }, args) => migration.setParameters(parseParameterChanges(args)),
  },
  migrate: {
    // `detach` changes nothing for a program: QEMU keeps it for old ones.
    takes: { ...target, "detach?": "boolean", "resume?": "boolean" },
    run: (machine, args) => {
      const where = targetFrom(args);
      if (args.resume === true) return machine.migration.resume(where);
      refuseBeforeMigrating(machine);
      return machine.migration.migrate(where);
    },
  },
  "migrate-incoming": {
    takes: { ...target, "exit-on-error?": "boolean" },
    run: (machine, args) => {
      const where = targetFrom(args);
      if (machine.runState !== "inmigrate")
        throw new UsageError("'-incoming' was not specified on the command line");
      return machine.migration.incoming(where, args["exit-on-error"] !== false);
    },
  },
  migrate_cancel: { takes: nothing, run: ({ migration }) => migration.cancel() },
  "migrate-continue": {
    takes: { state: "string" },
    run: ({ migration }, { state }) => {
      if (typeof state !== "string" || !isKnownMigrationStatus(state))
        throw new UsageError(`Parameter 'state' does not accept value '${String(state)}'`);
      migration.continue(state);
    },
  },
  "migrate-start-postcopy": { takes: nothing, run: ({ migration }) => migration.startPostcopy() },
  // In QEMU these two may be sent out of band, because its main thread can wait for a page. This monitor never does.
  "migrate-pause": { takes: nothing, run: ({ migration }) => migration.pause() },
  "migrate-recover": {
    takes: { uri: "string" },
    run: ({ migration }, args) => migration.recover(targetFrom(args)),
  },
};

/** The command that ends the negotiation. */
export const QMP_CAPABILITIES = "qmp_capabilities";

/** Whether there is a command of this name. */
export function isCommand(name: string): boolean {
  return Object.hasOwn(COMMANDS, name);
}

/**
 * Runs a command.
 *
 * @returns Its answer.
 * @throws UsageError for wrong arguments, and whatever the machine throws.
 */
export async function runCommand(
  machine: MonitoredMachine,
  name: string,
  args: JsonObject,
): Promise<unknown> {
  const command = COMMANDS[name];
  if (command === undefined) throw new UsageError(`The command ${name} has not been found`);
  if (command.takes !== undefined) checkArguments(args, command.takes);
  const answer: unknown = await command.run(machine, args);
  return answer ?? {};
}

function refuseBeforeMigrating({ runState }: MonitoredMachine): void {
  if (runState === "inmigrate")
    throw new MachineError("not-capable", "Guest is waiting for an incoming migration");
  // Once a guest was handed over in postcopy, it stays so even when that goes wrong.
  if (runState === "finish-migrate")
    throw new MachineError("not-capable", "There's a migration process in progress");
  if (runState === "postmigrate")
    throw new MachineError("not-capable", "Can't migrate the vm that was paused due to previous migration");
}
