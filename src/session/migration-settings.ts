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
  const [capabilities, parameters] = await Promise.all([
    qmp.execute("query-migrate-capabilities"),
    qmp.execute("query-migrate-parameters"),
  ]);
  return {
    capabilities: new Map(capabilities.map(({ capability, state }) => [capability, state])),
    parameters,
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

/** What settings were before one migration, as plain values: they can be kept elsewhere. */
export interface FormerSettings {
  readonly capabilities: readonly (readonly [name: string, state: boolean])[];
  readonly parameters: MigrationParameters;
  /** Those that only some capabilities go together with: put back last. */
  readonly channelParameters: MigrationParameters;
}

/**
 * What {@link applyMigrationSettings} will find before it changes anything.
 *
 * @param before The QEMU's settings now.
 */
export function formerSettings(before: MigrationAbilities, wanted: MigrationSettings): FormerSettings {
  return {
    capabilities: changedCapabilities(before, wanted).map(([name]) => [
      name,
      before.capabilities.get(name) ?? false,
    ]),
    parameters: formerValues(before, wanted.parameters),
    channelParameters: formerValues(before, channelResets(before)),
  };
}

/** Puts settings back. It does not throw, and does as much as QEMU takes. */
export async function putBackSettings(qmp: QmpClient, former: FormerSettings): Promise<void> {
  const steps = [
    () => setParameters(qmp, former.parameters),
    () => setCapabilities(qmp, former.capabilities),
    () => setParameters(qmp, former.channelParameters),
  ];
  for (const step of steps) {
    // The QEMU has gone or does not take its own settings back: what was asked for has its own outcome.
    await step().catch(() => undefined);
  }
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
  const former = formerSettings(before, wanted);
  const restore = (): Promise<void> => putBackSettings(qmp, former);
  try {
    await setParameters(qmp, channelResets(before));
    await setCapabilities(qmp, changedCapabilities(before, wanted));
    await setParameters(qmp, wanted.parameters);
  } catch (error) {
    await restore();
    throw error;
  }
  return restore;
}

function channelResets(before: MigrationAbilities): MigrationParameters {
  return Object.fromEntries(
    Object.entries(PLAIN_CHANNELS).filter(([name, plain]) => {
      const current = before.parameters[name];
      return current !== undefined && current !== "" && current !== plain;
    }),
  );
}

function changedCapabilities(before: MigrationAbilities, wanted: MigrationSettings): [string, boolean][] {
  const target = new Map(OFF_BY_DEFAULT.map((name) => [name, false]));
  for (const [name, state] of Object.entries(wanted.capabilities)) target.set(name, state);
  return [...target].filter(([name, state]) => {
    const current = before.capabilities.get(name);
    // One that was asked for and does not exist goes to QEMU, whose error says so.
    return current === undefined ? state : current !== state;
  });
}

async function setParameters(qmp: QmpClient, parameters: MigrationParameters): Promise<void> {
  if (Object.keys(parameters).length > 0) await qmp.execute("migrate-set-parameters", parameters);
}

async function setCapabilities(qmp: QmpClient, states: FormerSettings["capabilities"]): Promise<void> {
  const capabilities = states.map(([capability, state]) => ({ capability, state }));
  if (capabilities.length > 0) await qmp.execute("migrate-set-capabilities", { capabilities });
}

function formerValues(before: MigrationAbilities, parameters: MigrationParameters): MigrationParameters {
  const names = Object.keys(parameters).filter((name) => before.parameters[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, before.parameters[name]]));
}
