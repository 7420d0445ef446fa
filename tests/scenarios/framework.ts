/**
 * What the scenarios have in common: two `ramport vm` machines, the steps that QEMU's own migration tests are made of
 * (tests/qtest/migration/framework.c and migration-qmp.c), and what has to hold at the end.
 *
 * @module
 */

import { isDeepStrictEqual } from "node:util";
import { afterEach, expect } from "vitest";

import { buildMultibootImage } from "../../guests/multiboot.js";
import { parseSerialReport, type PassReport } from "../../guests/serial-report.js";
import { MachineError } from "../../src/errors/index.js";
import { setCapabilities } from "../support/migrating-guest.js";
import { HarnessQmp, type QmpMessage } from "../support/qmp.js";
import type { CliResult } from "../support/ramport-cli.js";
import { killAllVms, startVm, type StartVmOptions, type VmProcess } from "../support/vm-process.js";

export { setCapabilities };

const MIB = 1 << 20;
/** Of one machine. */
export const MEMORY_BYTES = 16 * MIB;

/** Of the guests's 16 MiB, 4.5 are in use: at the speed of {@link ensureNonConverge} they take a second and a half. */
const GUEST = buildMultibootImage({
  staticRange: { start: 2 * MIB, end: 5 * MIB },
  staticPagesPerPass: 256,
  dirtyRange: { start: 5 * MIB, end: 6 * MIB },
  togglingRange: { start: 6 * MIB, end: 13 * (MIB / 2) },
});

/** Like it, but it goes to sleep (ACPI S3) after its third pass, and goes on when it is woken (`suspend_me`). */
export const SLEEPER: Pick<PairOptions, "source" | "target"> = {
  source: {
    guest: buildMultibootImage({
      staticRange: { start: 2 * MIB, end: 5 * MIB },
      staticPagesPerPass: 256,
      dirtyRange: { start: 5 * MIB, end: 6 * MIB },
      togglingRange: { start: 6 * MIB, end: 13 * (MIB / 2) },
      sleepAfterPass: 3,
    }),
    args: ["-machine", "acpi=on"],
  },
  target: { args: ["-machine", "acpi=on"] },
};

/** What is waited for comes in a second or two, unless something is broken. */
const WAIT_MS = 30_000;

/** Answer of `query-migrate`. */
export type MigrationAnswer = QmpMessage & {
  readonly status?: string;
  readonly ram?: Readonly<Record<string, number>>;
};

/** A machine of a scenario. */
export class ScenarioMachine {
  readonly vm: VmProcess;
  readonly #qmp: HarnessQmp;

  /** Use {@link startMachine}. */
  constructor(vm: VmProcess, qmp: HarnessQmp) {
    this.vm = vm;
    this.#qmp = qmp;
  }

  /** @throws MachineError with the answer when the command is refused. */
  async qmp(command: string, args?: QmpMessage): Promise<unknown> {
    return this.#qmp.execute(command, args);
  }

  async queryMigrate(): Promise<MigrationAnswer> {
    return (await this.qmp("query-migrate")) as MigrationAnswer;
  }

  /** Name of the run state. */
  async runState(): Promise<string> {
    return ((await this.qmp("query-status")) as { status: string }).status;
  }

  /** All events so far but for the passes: `STOP`, `MIGRATION active`. */
  get events(): readonly string[] {
    return this.#qmp.events
      .filter(({ event }) => event !== "MIGRATION_PASS")
      .map(({ event, data }) => {
        const status = (data as { status?: string } | undefined)?.status;
        return status === undefined ? String(event) : `${String(event)} ${status}`;
      });
  }

  /** The statuses that MIGRATION events told so far. */
  get statuses(): readonly string[] {
    return this.events.filter((text) => text.startsWith("MIGRATION ")).map((text) => text.slice(10));
  }

  /** The numbers that MIGRATION_PASS events told so far. */
  get migrationPasses(): readonly number[] {
    return this.#qmp.events
      .filter(({ event }) => event === "MIGRATION_PASS")
      .map(({ data }) => (data as { pass: number }).pass);
  }

  /** Waits until something is true of what was told so far. */
  async waitUntil(what: string, look: () => boolean): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const actual = `${this.events.join(", ")} ${this.vm.stderr}`;
        reject(new MachineError("timeout", `Waited in vain for ${what}`, { actual }));
      }, WAIT_MS);
    });
    try {
      while (!look()) await Promise.race([this.#qmp.nextEvent(), late]);
    } finally {
      clearTimeout(timer);
      late.catch(() => undefined);
    }
  }

  /** Waits for an event as {@link events} has it, unless it was there already. */
  async waitForEvent(event: string): Promise<void> {
    await this.waitUntil(event, () => this.events.includes(event));
  }

  /**
   * Waits for the migration to come to a status.
   *
   * @param never Statuses that must not come before; an ended migration never leads to another status.
   */
  async waitForStatus(status: string, never: readonly string[] = ENDED): Promise<void> {
    await this.waitUntil(`status ${status}`, () => {
      const last = this.statuses.at(-1) ?? "none";
      if (this.statuses.includes(status)) return true;
      if (!never.includes(last)) return false;
      throw new MachineError("migration-failed", `The migration is ${last} and not ${status}`, {
        actual: `${this.statuses.join(", ")} ${this.vm.stderr}`,
      });
    });
  }

  /** The migration has completed, in the events and in the answer to `query-migrate`. */
  async waitForComplete(): Promise<MigrationAnswer> {
    await this.waitForStatus("completed", ["failed", "cancelled"]);
    const answer = await this.queryMigrate();
    expect(answer.status).toBe("completed");
    return answer;
  }
}

const ENDED = ["completed", "failed", "cancelled"];

/**
 * Starts a machine and, as QEMU's tests do, turns on the events and the capabilities.
 *
 * @throws MachineError when it ends at once.
 */
export async function startMachine(
  options: StartVmOptions & { readonly capabilities?: readonly string[] } = {},
): Promise<ScenarioMachine> {
  const vm = await startVm({
    memoryBytes: MEMORY_BYTES,
    ...(options.incoming === undefined ? { guest: GUEST } : {}),
    ...options,
  });
  const machine = new ScenarioMachine(vm, await HarnessQmp.connect(vm.qmpPath));
  await setCapabilities(machine, "events", ...(options.capabilities ?? []));
  return machine;
}

/** Source and destination. */
export interface MachinePair {
  readonly from: ScenarioMachine;
  readonly to: ScenarioMachine;
}

/** How {@link startPair} starts. */
export interface PairOptions {
  /** Where the destination waits: a URI, or `defer`. */
  readonly incoming: string;
  /** Of both. */
  readonly capabilities?: readonly string[];
  readonly source?: StartVmOptions;
  readonly target?: StartVmOptions;
  /** The destination starts only when the source runs: they share something. */
  readonly oneAfterTheOther?: boolean;
}

/** Starts both machines; the guest of the first one has made some passes then (`wait_for_serial`). */
export async function startPair(options: PairOptions): Promise<MachinePair> {
  const { incoming, capabilities = [], source = {}, target = {} } = options;
  const startSource = async (): Promise<ScenarioMachine> => {
    const from = await startMachine({ ...source, capabilities });
    await from.vm.waitForPass(2);
    return from;
  };
  const startTarget = (): Promise<ScenarioMachine> => startMachine({ ...target, incoming, capabilities });
  if (options.oneAfterTheOther === true) return { from: await startSource(), to: await startTarget() };
  const [from, to] = await Promise.all([startSource(), startTarget()]);
  return { from, to };
}

/** To be called once in each file: no process outlives its test. */
export function endMachinesAfterEach(): void {
  afterEach(killAllVms);
}

/** Sets parameters, and reads back that they are set. */
export async function setParameters(machine: ScenarioMachine, parameters: QmpMessage): Promise<void> {
  await machine.qmp("migrate-set-parameters", parameters);
  expect(await machine.qmp("query-migrate-parameters")).toMatchObject(parameters);
}

/** With 3 MB/s and a millisecond of downtime, no guest that changes its memory comes to an end. */
export async function ensureNonConverge(machine: ScenarioMachine): Promise<void> {
  await setParameters(machine, { "max-bandwidth": 3_000_000, "downtime-limit": 1 });
}

/** With 1 TB/s and half a minute of downtime, every guest does. */
export async function ensureConverge(machine: ScenarioMachine): Promise<void> {
  await setParameters(machine, { "max-bandwidth": 1_000_000_000_000, "downtime-limit": 30_000 });
}

/** Where a destination listens: the port of `tcp:127.0.0.1:0` is the system's choice. */
export async function connectUri({ to }: MachinePair): Promise<string> {
  const { "socket-address": addresses } = (await to.queryMigrate()) as {
    "socket-address"?: readonly { type: string; path?: string; host?: string; port?: string }[];
  };
  expect(addresses).toHaveLength(1);
  const address = addresses?.[0];
  return address?.type === "unix"
    ? `unix:${address.path ?? ""}`
    : `tcp:${address?.host ?? ""}:${address?.port ?? ""}`;
}

/** `migrate`; without a URI, to where the destination listens. */
export async function migrate(pair: MachinePair, uri?: string): Promise<void> {
  await pair.from.qmp("migrate", { uri: uri ?? (await connectUri(pair)) });
}

/** `migrate-incoming`, until the machine is set up for it. */
export async function migrateIncoming(
  to: ScenarioMachine,
  uri: string,
  args: QmpMessage = {},
): Promise<void> {
  await to.qmp("migrate-incoming", { uri, ...args });
  await to.waitForStatus("setup");
}

/** Stops a source before it is migrated. */
export async function stopSource({ from }: MachinePair): Promise<void> {
  await from.qmp("stop");
  await from.waitForEvent("STOP");
  expect(await from.runState()).toBe("paused");
}

/**
 * Waits for so many passes over memory while the guest goes on: what it had sent at first is dirty again. The migration
 * is not at its end then.
 */
export async function waitForDirtyMemory({ from }: MachinePair, migrationPass = 2): Promise<void> {
  await from.waitUntil(`pass ${migrationPass} of the migration`, () => {
    return (from.migrationPasses.at(-1) ?? 0) >= migrationPass;
  });
  await from.vm.waitForMorePasses(1);
  expect(await from.queryMigrate()).toMatchObject({ status: "active" });
  expect(await from.runState()).toBe("running");
  expect(from.events).not.toContain("STOP");
}

/** The guest's word for what it has seen until now. */
export function lastPass(machine: ScenarioMachine): PassReport {
  const last = machine.vm.passes().at(-1);
  if (last === undefined) throw new MachineError("migration-failed", "The guest has made no pass");
  return last;
}

/** The guest that ran at the source goes on at the destination: it finds its memory right, and has lost no pass. */
export async function expectGoesOn({ from, to }: MachinePair): Promise<void> {
  const last = lastPass(from);
  const report = await to.vm.waitForPass(last.pass + 4);
  expect(report.id).toBe(last.id);
  expect(to.vm.serial.startId).toBeUndefined();
  const whole = parseSerialReport(from.vm.serial.text + to.vm.serial.text);
  expect(whole.at(-1)?.id).toBe(last.id);
  expect(lastPass(from)).toEqual(last);
  expect(await to.runState()).toBe("running");
  expect(await from.runState()).toBe("postmigrate");
}

/** The guest has gone to sleep (`wait_for_suspend`). */
export async function waitForSuspend({ from }: MachinePair): Promise<void> {
  await from.waitForEvent("SUSPEND");
  await from.vm.waitForPass(3);
  expect(await from.runState()).toBe("suspended");
  expect(lastPass(from).pass).toBe(3);
}

/** The guest sleeps at the destination as it did at the source, and is woken there. */
export async function wakeUp({ to }: MachinePair): Promise<void> {
  expect(await to.runState()).toBe("suspended");
  expect(to.vm.serial.text).toBe("");
  await to.qmp("system_wakeup");
  await to.waitForEvent("WAKEUP");
  expect(await to.runState()).toBe("running");
}

/** The guest goes on where it always was. */
export async function expectRunsOn(machine: ScenarioMachine): Promise<void> {
  expect(await machine.runState()).toBe("running");
  const { id } = lastPass(machine);
  expect((await machine.vm.waitForMorePasses(4)).id).toBe(id);
}

/** The machine ended because its incoming migration failed, and says why. */
export async function expectTargetFailed({ to }: MachinePair, why: RegExp): Promise<CliResult> {
  const result = await to.vm.exited;
  expect(result).toMatchObject({ code: 1, signal: null, stderr: expect.stringMatching(why) as string });
  return result;
}

/** What QEMU 11.1 answers to `query-migrate` when a migration has completed. */
const COMPLETED_KEYS = ["downtime", "ram", "setup-time", "status", "total-time"];
const RAM_KEYS = [
  ...["dirty-pages-rate", "dirty-sync-count", "dirty-sync-missed-zero-copy", "downtime-bytes", "duplicate"],
  ...["mbps", "multifd-bytes", "normal", "normal-bytes", "page-size", "pages-per-second", "postcopy-bytes"],
  ...["postcopy-requests", "precopy-bytes", "remaining", "total", "transferred"],
];

/** What {@link expectCompleted} is to find. */
export interface CompletedOptions {
  /** The guest ran when the migration began. */
  readonly live: boolean;
  /** Parts of the answer that not every migration has. */
  readonly alsoKeys?: readonly string[];
  /** How many passes over memory there were at least; default 2, and the one that a stopped guest needs. */
  readonly leastSyncCount?: number;
  /** The migration waited for `migrate-continue`. */
  readonly paused?: boolean;
  /** Bytes of RAM that were to be sent. */
  readonly ramBytes?: number;
}

/** The source's side of a migration that completed is what QEMU's would be: answer, events in their order, run state. */
export async function expectCompleted(
  { from }: Pick<MachinePair, "from">,
  options: CompletedOptions,
): Promise<MigrationAnswer> {
  const answer = await from.waitForComplete();
  expect(Object.keys(answer).sort()).toEqual([...COMPLETED_KEYS, ...(options.alsoKeys ?? [])].sort());
  const ram = answer.ram ?? {};
  expect(Object.keys(ram).sort()).toEqual([...RAM_KEYS].sort());
  const { transferred = NaN, total = NaN, "precopy-bytes": precopy = NaN } = ram;
  // The other block is the video memory.
  expect(total).toBe(options.ramBytes ?? MEMORY_BYTES + MIB);
  expect(ram).toMatchObject({
    remaining: 0,
    "page-size": 4096,
    "normal-bytes": (ram.normal ?? NaN) * 4096,
    "downtime-bytes": transferred - precopy,
    "postcopy-bytes": 0,
    "multifd-bytes": 0,
  });
  expect(transferred).toBeGreaterThan(ram["normal-bytes"] ?? NaN);
  expect((ram.normal ?? NaN) + (ram.duplicate ?? NaN)).toBeGreaterThanOrEqual(total / 4096);
  const leastSyncCount = options.leastSyncCount ?? (options.live ? 2 : 1);
  expect(ram["dirty-sync-count"]).toBeGreaterThanOrEqual(leastSyncCount);
  if (options.live) expect(from.migrationPasses.at(-1)).toBe(ram["dirty-sync-count"]);
  const times = answer as unknown as Record<string, number>;
  const { downtime = NaN, "total-time": totalTime = NaN, "setup-time": setupTime = NaN } = times;
  expect(downtime + setupTime).toBeLessThanOrEqual(totalTime + 1);
  expect(downtime).toBeGreaterThanOrEqual(0);
  expectEndsWith(from.events, [
    ...(options.live ? [] : ["STOP"]),
    ...["MIGRATION setup", "MIGRATION active"],
    ...(options.live ? ["STOP"] : []),
    ...(options.paused === true ? ["MIGRATION pre-switchover"] : []),
    ...["MIGRATION device", "MIGRATION completed"],
  ]);
  expect(await from.runState()).toBe("postmigrate");
  return answer;
}

/**
 * The destination's side of it.
 *
 * @param options.resumed Whether the guest starts by itself.
 * @param options.deferred Whether the migration was announced when somebody listened to events.
 * @param options.asleep Whether the guest sleeps.
 */
export async function expectLoaded(
  { to }: Pick<MachinePair, "to">,
  options: { readonly resumed: boolean; readonly deferred: boolean; readonly asleep?: boolean },
): Promise<void> {
  expect(await to.waitForComplete()).toEqual({ status: "completed" });
  expect(to.events).toEqual([
    ...(options.deferred ? ["MIGRATION setup"] : []),
    "MIGRATION active",
    ...(options.resumed ? ["RESUME"] : []),
    "MIGRATION completed",
  ]);
  const live = options.asleep === true ? "suspended" : "running";
  expect(await to.runState()).toBe(options.resumed ? live : "paused");
}

function expectEndsWith(events: readonly string[], end: readonly string[]): void {
  const last = events.slice(-end.length);
  if (!isDeepStrictEqual(last, end)) expect(events).toEqual(end);
}
