import { MAPPED_RAM_CAPABILITY } from "../engine/index.js";
import type { MigrationParameters, QmpClient } from "../qmp/index.js";

/** Capabilities and parameters wanted for one migration. */
export interface MigrationSettings {
  readonly capabilities: Readonly<Record<string, boolean>>;
  readonly parameters: MigrationParameters;
}

/**
 * Capabilities that change what travels, or that mapped-ram does not go together with: off unless an operation asks for
 * one. Which of them exist depends on the QEMU.
 */
const OFF_BY_DEFAULT = [
  "xbzrle",
  "compress",
  "block",
  "rdma-pin-all",
  "postcopy-ram",
  "postcopy-blocktime",
  "postcopy-preempt",
  "release-ram",
  "x-colo",
  "multifd",
  "mapped-ram",
  "return-path",
  "pause-before-switchover",
  "background-snapshot",
  "zero-copy-send",
  "switchover-ack",
  "x-ignore-shared",
];

/** Parameters of channels that ramport does not open, or that mapped-ram does not go together with, and their plain values. */
const PLAIN_CHANNELS: MigrationParameters = { "tls-creds": "", "multifd-compression": "none" };

/** What a QEMU's migration code can do, as it was before ramport touched anything. */
export interface MigrationAbilities {
  /** Every capability that this QEMU has, and whether it is on. */
  readonly capabilities: ReadonlyMap<string, boolean>;
  readonly parameters: MigrationParameters;
}

/** Asks a QEMU for its capabilities and parameters. */
export async function queryMigrationAbilities(qmp: QmpClient): Promise<MigrationAbilities> {
  const capabilities = await qmp.execute("query-migrate-capabilities");
  return {
    capabilities: new Map(capabilities.map(({ capability, state }) => [capability, state])),
    parameters: await qmp.execute("query-migrate-parameters"),
  };
}

/** What QEMU needs to write or read a mapped-ram file by itself. */
export function mappedRamSettings(
  { parameters }: MigrationAbilities,
  { channels, directIo }: { readonly channels: number; readonly directIo: boolean },
): MigrationSettings {
  return {
    capabilities: { [MAPPED_RAM_CAPABILITY]: true, ...(channels > 1 ? { multifd: true } : {}) },
    parameters: {
      ...(channels > 1 ? { "multifd-channels": channels } : {}),
      // Known since QEMU 9.1: set it where it exists, so that a former value does not stay.
      ...(directIo || parameters["direct-io"] !== undefined ? { "direct-io": directIo } : {}),
    },
  };
}

/**
 * Sets what one migration needs and remembers what was set before.
 *
 * QEMU checks all settings against each other at each change, so their order matters: what mapped-ram does not go together
 * with is reset before it is turned on, and put back after it is off again; direct-io is allowed only while it is on.
 *
 * @returns A function that puts everything back; it does not throw, and does as much as QEMU takes.
 */
export async function applyMigrationSettings(
  qmp: QmpClient,
  before: MigrationAbilities,
  wanted: MigrationSettings,
): Promise<() => Promise<void>> {
  const resets = Object.fromEntries(
    Object.entries(PLAIN_CHANNELS).filter(([name, plain]) => {
      const current = before.parameters[name];
      return current !== undefined && current !== "" && current !== plain;
    }),
  );
  const target = new Map(OFF_BY_DEFAULT.map((name) => [name, false]));
  for (const [name, state] of Object.entries(wanted.capabilities)) target.set(name, state);
  const changed = [...target].filter(([name, state]) => {
    const current = before.capabilities.get(name);
    // One that was asked for and does not exist goes to QEMU, whose error says so.
    return current === undefined ? state : current !== state;
  });
  const setParameters = async (parameters: MigrationParameters): Promise<void> => {
    if (Object.keys(parameters).length > 0) await qmp.execute("migrate-set-parameters", parameters);
  };
  const setCapabilities = async (states: readonly (readonly [string, boolean])[]): Promise<void> => {
    const capabilities = states.map(([capability, state]) => ({ capability, state }));
    if (capabilities.length > 0) await qmp.execute("migrate-set-capabilities", { capabilities });
  };
  const restore = async (): Promise<void> => {
    const steps = [
      () => setParameters(formerValues(before, wanted.parameters)),
      () => setCapabilities(changed.map(([name]) => [name, before.capabilities.get(name) ?? false])),
      () => setParameters(formerValues(before, resets)),
    ];
    for (const step of steps) {
      // The QEMU has gone or does not take its own settings back: what was asked for has its own outcome.
      await step().catch(() => undefined);
    }
  };
  try {
    await setParameters(resets);
    await setCapabilities(changed);
    await setParameters(wanted.parameters);
  } catch (error) {
    await restore();
    throw error;
  }
  return restore;
}

function formerValues(before: MigrationAbilities, parameters: MigrationParameters): MigrationParameters {
  const names = Object.keys(parameters).filter((name) => before.parameters[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, before.parameters[name]]));
}
