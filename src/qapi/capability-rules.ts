/**
 * Which capabilities go together: the rules of QEMU 11.1 (`migrate_caps_check`), and what the engine adds to them.
 *
 * Not here, because they depend on the host and concern only what the engine does not have: whether the kernel can
 * protect pages (`background-snapshot`, `postcopy-ram` on the destination), KVM's dirty ring (`dirty-limit`), and RDMA.
 *
 * @module
 */
import { CAPABILITIES, CAPABILITY_NAMES, type Capabilities, type CapabilityName } from "./capabilities.js";
import type { MigrationParameters } from "./parameters.js";
import { throwProblem, type SettingProblem } from "./setting-problem.js";

/** What a machine is at: nothing, sending, or waiting for (or loading) an incoming migration that has an address. */
export type MigrationRole = "idle" | "outgoing" | "incoming";

/** Capabilities to turn on or off. */
export type CapabilityChanges = Partial<Capabilities>;

/** Capabilities of which only one can be on. Zero-copy and xbzrle exclude each other through multifd, which it needs. */
const CONFLICTS: readonly (readonly [CapabilityName, CapabilityName])[] = [
  ["multifd", "xbzrle"],
  ["mapped-ram", "xbzrle"],
  ["mapped-ram", "postcopy-ram"],
  ["postcopy-ram", "x-ignore-shared"],
  ["dirty-limit", "auto-converge"],
  ["background-snapshot", "postcopy-ram"],
  ["background-snapshot", "dirty-bitmaps"],
  ["background-snapshot", "postcopy-blocktime"],
  ["background-snapshot", "late-block-activate"],
  ["background-snapshot", "return-path"],
  ["background-snapshot", "multifd"],
  ["background-snapshot", "pause-before-switchover"],
  ["background-snapshot", "auto-converge"],
  ["background-snapshot", "release-ram"],
  ["background-snapshot", "rdma-pin-all"],
  ["background-snapshot", "xbzrle"],
  ["background-snapshot", "x-colo"],
  ["background-snapshot", "validate-uuid"],
  ["background-snapshot", "zero-copy-send"],
];

/** Capabilities that need another one. */
const NEEDS: readonly (readonly [CapabilityName, CapabilityName])[] = [
  ["postcopy-preempt", "postcopy-ram"],
  ["zero-copy-send", "multifd"],
  ["switchover-ack", "return-path"],
  ["x-colo", "return-path"],
];

/** Capabilities whose pages go as they are: neither compressed nor encrypted. */
const PLAIN_PAGES: readonly CapabilityName[] = ["mapped-ram", "zero-copy-send"];

/** Capabilities that decide which channels a destination listens for. */
const BEFORE_INCOMING: readonly CapabilityName[] = ["multifd", "postcopy-preempt"];

/**
 * First conflict within a whole set of capabilities, or between them and the parameters; whether the engine supports
 * them is another question ({@link findUnsupportedCapability}).
 *
 * On `mapped-ram` with compression or TLS this is stricter than QEMU 11.1, which takes the pair and then refuses every
 * change of a parameter, that which would undo it included.
 */
export function findCapabilityConflict(
  capabilities: Capabilities,
  parameters: MigrationParameters,
): SettingProblem | undefined {
  const clash = CONFLICTS.find(([one, other]) => capabilities[one] && capabilities[other]);
  if (clash !== undefined) {
    const [one, other] = clash;
    return conflict(
      clash,
      `The capabilities ${one} and ${other} do not work together`,
      "turn one of them off",
    );
  }
  const lack = NEEDS.find(([one, needed]) => capabilities[one] && !capabilities[needed]);
  if (lack !== undefined) {
    const [one, needed] = lack;
    return conflict(
      lack,
      `The capability ${one} needs the capability ${needed}`,
      `turn ${needed} on as well`,
    );
  }
  return findPlainPagesConflict(capabilities, parameters);
}

/** What of the changes turns a capability on that the engine does not have; turning it off is fine. */
export function findUnsupportedCapability(changes: CapabilityChanges): SettingProblem | undefined {
  for (const spec of CAPABILITIES) {
    if (spec.supported || changes[spec.name] !== true) continue;
    const message = `The migration capability ${spec.name} is not supported: ${spec.reason}`;
    return { kind: "unsupported", names: [spec.name], message, hint: "leave it off" };
  }
  return undefined;
}

/** What of the changes comes too late for what the machine is at; during a migration even none at all. */
export function findLateCapability(
  changes: CapabilityChanges,
  current: Capabilities,
  role: MigrationRole,
): SettingProblem | undefined {
  if (role === "outgoing") {
    const names = CAPABILITY_NAMES.filter((name) => changes[name] !== undefined);
    const message = "Migration capabilities cannot be changed while a migration runs";
    return { kind: "too-late", names, message, hint: "change them before it starts or when it has ended" };
  }
  if (role === "idle") return undefined;
  const late = BEFORE_INCOMING.find((name) => changes[name] === true && !current[name]);
  if (late === undefined) return undefined;
  const message = `The capability ${late} cannot be turned on when an incoming migration already has its address`;
  return { kind: "too-late", names: [late], message, hint: "turn it on before migrate-incoming" };
}

/**
 * Checks a change of capabilities as a whole, so that one may be turned off and its opposite on in the same call.
 *
 * @returns The capabilities as they are afterwards.
 * @throws UsageError when it comes too late, when two settings do not go together, or when the engine does not have one.
 */
export function checkCapabilities(
  wanted: CapabilityChanges,
  current: Capabilities,
  parameters: MigrationParameters,
  role: MigrationRole,
): Capabilities {
  const result: Capabilities = { ...current, ...wanted };
  throwProblem(
    findLateCapability(wanted, current, role) ??
      findCapabilityConflict(result, parameters) ??
      findUnsupportedCapability(wanted),
  );
  return result;
}

/** Capabilities against compression and TLS; the parameters' own check asks for it as well. */
export function findPlainPagesConflict(
  capabilities: Capabilities,
  parameters: MigrationParameters,
): SettingProblem | undefined {
  const plain = PLAIN_PAGES.find((name) => capabilities[name]);
  if (plain === undefined) return undefined;
  const compression = parameters["multifd-compression"];
  if (compression !== "none") {
    const message = `The capability ${plain} does not work with multifd-compression ${compression}`;
    const hint = `turn ${plain} off, or set multifd-compression to none`;
    return conflict([plain, "multifd-compression"], message, hint);
  }
  if (parameters["tls-creds"] !== "") {
    const message = `The capability ${plain} does not work with TLS`;
    return conflict([plain, "tls-creds"], message, `turn ${plain} off, or set tls-creds to an empty string`);
  }
  return undefined;
}

function conflict(names: readonly string[], message: string, hint: string): SettingProblem {
  return { kind: "conflict", names, message, hint };
}
