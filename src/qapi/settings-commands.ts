/**
 * The four QMP commands for settings: their arguments, as JSON that anybody may have written, and their answers.
 *
 * @module
 */
import { printable, UsageError } from "../errors/index.js";
import {
  CAPABILITY_NAMES,
  isCapabilityName,
  type Capabilities,
  type CapabilityName,
  type MigrationCapabilityStatus,
} from "./capabilities.js";
import type { CapabilityChanges } from "./capability-rules.js";
import { checkList, checkMembers, isJsonObject } from "./json-values.js";
import { checkParameterValue, type ParameterChanges } from "./parameter-rules.js";
import { isParameterName, PARAMETER_NAMES } from "./parameter-table.js";
import type { MigrationParameters, ParameterName } from "./parameters.js";

/** Parameters of which QEMU takes null for an empty string. */
const NULL_IS_EMPTY: readonly ParameterName[] = ["tls-creds", "tls-hostname", "tls-authz"];

/**
 * Reads the arguments of `migrate-set-capabilities`; of a capability that comes twice the last one counts, as in QEMU.
 *
 * @throws UsageError naming the member or the capability that is wrong.
 */
export function parseCapabilityChanges(args: unknown): CapabilityChanges {
  const { capabilities } = checkMembers(args, "The argument of migrate-set-capabilities", ["capabilities"]);
  const changes: Partial<Record<CapabilityName, boolean>> = {};
  for (const [index, item] of checkList(capabilities, "capabilities").entries()) {
    const what = `capabilities[${index}]`;
    const { capability, state } = checkMembers(item, what, ["capability", "state"]);
    if (typeof capability !== "string") throw new UsageError(`${what}.capability must be a string`);
    if (!isCapabilityName(capability)) {
      throw new UsageError(`There is no migration capability ${printable(capability)}`);
    }
    if (typeof state !== "boolean") {
      throw new UsageError(`The state of the migration capability ${capability} must be true or false`);
    }
    changes[capability] = state;
  }
  return changes;
}

/**
 * Reads the arguments of `migrate-set-parameters`, ranges included.
 *
 * @throws UsageError naming the parameter and what it takes.
 */
export function parseParameterChanges(args: unknown): ParameterChanges {
  if (!isJsonObject(args)) throw new UsageError("The argument of migrate-set-parameters must be an object");
  const changes: Partial<Record<ParameterName, unknown>> = {};
  for (const [name, given] of Object.entries(args)) {
    if (!isParameterName(name)) throw new UsageError(`There is no migration parameter ${printable(name)}`);
    const value = given === null && NULL_IS_EMPTY.includes(name) ? "" : given;
    checkParameterValue(name, value);
    changes[name] = value;
  }
  // Each value has just been checked against the table's type for its name.
  return changes as ParameterChanges;
}

/** Answer of `query-migrate-capabilities`, in QEMU's order. */
export function capabilitiesAnswer(capabilities: Capabilities): readonly MigrationCapabilityStatus[] {
  return CAPABILITY_NAMES.map((capability) => ({ capability, state: capabilities[capability] }));
}

/**
 * Answer of `query-migrate-parameters`, in the order of QEMU's schema (QEMU itself answers in that of a hash table).
 * `block-bitmap-mapping` is absent as long as it was not set.
 */
export function parametersAnswer(parameters: MigrationParameters): MigrationParameters {
  const set = PARAMETER_NAMES.filter((name) => parameters[name] !== undefined);
  // The names are those of the type, and only the one that may be absent can be.
  return Object.fromEntries(set.map((name) => [name, parameters[name]])) as unknown as MigrationParameters;
}
