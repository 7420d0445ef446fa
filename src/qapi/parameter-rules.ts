/**
 * Checks of migration parameters: single values, and which of them go together.
 *
 * @module
 */
import { UsageError } from "../errors/index.js";
import { findPlainPagesConflict } from "./capability-rules.js";
import type { Capabilities } from "./capabilities.js";
import { checkBitmapMapping, isStringArray } from "./json-values.js";
import { PARAMETER_NAMES, PARAMETERS, type ParameterSpec } from "./parameter-table.js";
import { DEFAULT_PARAMETERS, type MigrationParameters, type ParameterName } from "./parameters.js";
import { throwProblem, type SettingProblem } from "./setting-problem.js";

/** Parameters to set. */
export type ParameterChanges = Partial<MigrationParameters>;

/**
 * Checks the type and range of one value, without regard to other settings and to what the engine supports.
 *
 * @throws UsageError with the parameter and what it takes.
 */
export function checkParameterValue(name: ParameterName, value: unknown): void {
  const spec = PARAMETERS[name];
  if (spec.type === "bitmap-mapping") {
    checkBitmapMapping(name, value);
    return;
  }
  if (!takes(spec, value)) {
    throw new UsageError(`The migration parameter ${name} must be ${describeParameter(name)}`, {
      actual: typeof value === "number" ? value : showValue(value),
    });
  }
}

/** What a parameter takes, in words: "an integer from 1 to 99 percent". */
export function describeParameter(name: ParameterName): string {
  const spec = PARAMETERS[name];
  switch (spec.type) {
    case "integer": {
      const kind = spec.powerOfTwo === true ? "a power of two" : "an integer";
      const unit = spec.unit === undefined ? "" : ` ${spec.unit}`;
      return `${kind} from ${spec.minimum} to ${spec.maximum}${unit}`;
    }
    case "boolean":
      return "true or false";
    case "string":
      return "a string";
    case "enum":
      return `one of ${spec.values.join(", ")}`;
    case "strings":
      return "a list of strings";
    case "bitmap-mapping":
      return "a list of block nodes with their bitmaps";
  }
}

/** First conflict within a whole set of parameters, or between them and the capabilities. */
export function findParameterConflict(
  parameters: MigrationParameters,
  capabilities: Capabilities,
): SettingProblem | undefined {
  const maximum = parameters["max-cpu-throttle"];
  const initial = parameters["cpu-throttle-initial"];
  if (maximum < initial) {
    return {
      kind: "conflict",
      names: ["max-cpu-throttle", "cpu-throttle-initial"],
      message: `The migration parameter max-cpu-throttle (${maximum}) must not be less than cpu-throttle-initial (${initial})`,
      hint: "set both in one call",
    };
  }
  return findPlainPagesConflict(capabilities, parameters);
}

/** What of the changes sets a parameter that the engine does not have to another value than its default. */
export function findUnsupportedParameter(changes: ParameterChanges): SettingProblem | undefined {
  for (const name of PARAMETER_NAMES) {
    const spec = PARAMETERS[name];
    const value = changes[name];
    if (spec.supported || value === undefined || isDefault(name, value)) continue;
    return {
      kind: "unsupported",
      names: [name],
      message: `The migration parameter ${name} is not supported: ${spec.reason}`,
      hint: name === "block-bitmap-mapping" ? "do not set it" : `leave it at ${showDefault(name)}`,
    };
  }
  return undefined;
}

/**
 * Checks a change of parameters as a whole. QEMU takes such changes while a migration runs, too.
 *
 * @returns The parameters as they are afterwards.
 * @throws UsageError when a value is out of its range, when two settings do not go together, or when the engine does
 *   not have the parameter.
 */
export function checkParameters(
  changes: ParameterChanges,
  current: MigrationParameters,
  capabilities: Capabilities,
): MigrationParameters {
  for (const name of PARAMETER_NAMES) {
    if (changes[name] !== undefined) checkParameterValue(name, changes[name]);
  }
  const result: MigrationParameters = { ...current, ...changes };
  throwProblem(findParameterConflict(result, capabilities) ?? findUnsupportedParameter(changes));
  return result;
}

function takes(spec: Exclude<ParameterSpec, { type: "bitmap-mapping" }>, value: unknown): boolean {
  switch (spec.type) {
    case "integer":
      return (
        Number.isSafeInteger(value) &&
        (value as number) >= spec.minimum &&
        (value as number) <= spec.maximum &&
        (spec.powerOfTwo !== true || isPowerOfTwo(value as number))
      );
    case "boolean":
      return typeof value === "boolean";
    case "string":
      return typeof value === "string";
    case "enum":
      return typeof value === "string" && spec.values.includes(value);
    case "strings":
      return isStringArray(value);
  }
}

/** As 64-bit integers, since near 2^53 a logarithm is rounded to a whole number that it is not. */
function isPowerOfTwo(value: number): boolean {
  const wide = BigInt(value);
  return wide > 0n && (wide & (wide - 1n)) === 0n;
}

/** Without what is inside of a list or an object: it can be long, deep or circular. */
function showValue(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "boolean" || value === null) return String(value);
  return Array.isArray(value) ? "a list" : `a value of type ${typeof value}`;
}

/** Defaults are plain values but for the empty list of `cpr-exec-command`. */
function isDefault(name: ParameterName, value: MigrationParameters[ParameterName]): boolean {
  const standard = DEFAULT_PARAMETERS[name];
  if (Array.isArray(standard)) return Array.isArray(value) && value.length === 0 && standard.length === 0;
  return value === standard;
}

function showDefault(name: ParameterName): string {
  const standard = DEFAULT_PARAMETERS[name];
  return standard === "" || typeof standard === "object" ? "nothing" : String(standard);
}
