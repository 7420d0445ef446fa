import type { ByteSource } from "../../src/channels/index.js";
import { loadHost } from "../../src/engine/incoming/load-host.js";
import { loadHostFromStream } from "../../src/engine/incoming/load-stream.js";
import { MigrationState } from "../../src/engine/migration-states.js";
import { MappedRamTarget } from "../../src/engine/outgoing/mapped-ram-target.js";
import { OutgoingMigration } from "../../src/engine/outgoing/outgoing-migration.js";
import type { OutgoingTarget } from "../../src/engine/outgoing/outgoing-target.js";
import { StreamTarget } from "../../src/engine/outgoing/stream-target.js";
import { XbzrleCache } from "../../src/engine/outgoing/xbzrle-cache.js";
import type { KnownMigrationStatus, MigrationInfo, MigrationParameters } from "../../src/qapi/index.js";
import { Random } from "../support/random.js";
import type { Scenario, UserAction } from "./scenario.js";
import { SimFile } from "./sim-file.js";
import { SimGuest } from "./sim-guest.js";
import { SimHost } from "./sim-host.js";
import { SimLink } from "./sim-link.js";
import { VirtualClock } from "./virtual-clock.js";

/** How one side ended. */
export type Ending<T> = { readonly value: T } | { readonly error: unknown };

/** What a load says of itself. */
export interface Loaded {
  readonly pages: { readonly normal: number; readonly zero: number };
  readonly wasRunning: boolean;
}

/** Everything about a run that is looked at afterwards. */
export interface Outcome {
  readonly scenario: Scenario;
  readonly clock: VirtualClock;
  readonly source: SimHost;
  readonly destination: SimHost;
  readonly link: SimLink | undefined;
  readonly file: SimFile | undefined;
  readonly migrated: Ending<void>;
  /** Undefined when nobody loaded. */
  readonly loaded: Ending<Loaded> | undefined;
  readonly info: MigrationInfo;
  /** As the user would have the guest: what the user set last, and otherwise as it was. */
  readonly wish: "running" | "stopped";
  /** The wish at the moment when the devices were saved. */
  readonly wishAtSave: "running" | "stopped" | undefined;
  readonly statuses: readonly KnownMigrationStatus[];
  /** What the user or the scenario did that keeps a migration from its end. */
  readonly disturbances: readonly string[];
  /** Turns of the guest while a little time passed after the end. */
  readonly ticksAfterwards: number;
  readonly parametersChanged: boolean;
  /** When the migration had stopped the guest, and what was known then. */
  readonly stop: StopFacts | undefined;
  /** When it was cancelled first. */
  readonly cancelledAtMs: number | undefined;
  readonly endedAtMs: number;
  readonly xbzrle: XbzrleCache | undefined;
}

/** How a migration stood when it had stopped the guest. */
export interface StopFacts {
  readonly atMs: number;
  readonly sentBytes: number;
  readonly info: MigrationInfo;
  readonly parameters: MigrationParameters;
}

/** Nothing of a run may take longer, in virtual time and in events. */
const EVENTS = 200_000;
const END_GRACE_MS = 20_000;
/** Content of the destination's memory beforehand. */
const RUBBISH = 0xee;

/** Runs a scenario to its end. Throws an Error when it gets stuck. */
export async function runScenario(scenario: Scenario, log?: string[]): Promise<Outcome> {
  return new Run(scenario, log).run();
}

class Run {
  readonly #scenario: Scenario;
  readonly #clock: VirtualClock;
  readonly #source: SimHost;
  readonly #destination: SimHost;
  readonly #guest: SimGuest;
  readonly #random: Random;
  readonly #statuses: KnownMigrationStatus[] = [];
  readonly #disturbances: string[] = [];
  readonly #abortLoad = new AbortController();
  #parameters: MigrationParameters;
  #parametersChanged = false;
  #wish: "running" | "stopped";
  #wishAtSave: "running" | "stopped" | undefined;
  #migration: OutgoingMigration | undefined;
  #xbzrle: XbzrleCache | undefined;
  #link: SimLink | undefined;
  #file: SimFile | undefined;
  #stop: StopFacts | undefined;
  #cancelledAtMs: number | undefined;

  constructor(scenario: Scenario, log: string[] | undefined) {
    const { seed, machine, devices, habit, parameters } = scenario;
    this.#scenario = scenario;
    this.#clock = new VirtualClock(new Random(seed * 31 + 7), log);
    this.#random = new Random(seed * 131 + 3);
    this.#source = new SimHost(machine, this.#clock, devices);
    this.#destination = new SimHost(
      scenario.destinationMachine,
      this.#clock,
      devices.map(() => new Uint8Array()),
    );
    this.#guest = new SimGuest(this.#source, habit, new Random(seed * 17 + 5), this.#clock);
    this.#parameters = parameters;
    this.#wish = scenario.runsAtFirst ? "running" : "stopped";
    const saveDevices = this.#source.saveDevices.bind(this.#source);
    this.#source.saveDevices = () => {
      this.#wishAtSave = this.#wish;
      this.#link?.devicesFollow();
      return saveDevices();
    };
  }

  async run(): Promise<Outcome> {
    const { cancelMs } = this.#scenario;
    for (const [block, { usedLength }] of this.#destination.ramBlocks().entries()) {
      this.#destination.fill(block, 0, new Uint8Array(usedLength).fill(RUBBISH));
    }
    this.#guest.furnish();
    return this.#clock.run(this.#play(), { untilMs: cancelMs + END_GRACE_MS, events: EVENTS });
  }

  async #play(): Promise<Outcome> {
    const scenario = this.#scenario;
    if (scenario.runsAtFirst) await this.#source.run();
    this.#guest.begin();
    const target = this.#makeTarget();
    const migration = this.#makeMigration(target);
    this.#migration = migration;
    this.#scheduleUser();
    const loading = this.#link === undefined ? undefined : ending(this.#load(this.#link));
    const migrated = await ending(migration.run());
    const endedAtMs = this.#clock.now();
    this.#clock.note(() => `source: ${describe(migrated)}`);
    await this.#link?.source.close();
    let loaded = await loading;
    if (this.#file !== undefined && "value" in migrated) loaded = await ending(this.#loadFile(this.#file));
    if (loaded !== undefined) this.#clock.note(() => `destination: ${describe(loaded)}`);
    const ticks = this.#guest.ticks;
    await this.#clock.sleep(scenario.habit.everyMs * 6);
    this.#guest.end();
    return {
      scenario,
      clock: this.#clock,
      source: this.#source,
      destination: this.#destination,
      link: this.#link,
      file: this.#file,
      migrated,
      loaded,
      info: migration.info,
      wish: this.#wish,
      wishAtSave: this.#wishAtSave,
      statuses: this.#statuses,
      disturbances: this.#disturbances,
      ticksAfterwards: this.#guest.ticks - ticks,
      parametersChanged: this.#parametersChanged,
      stop: this.#stop,
      cancelledAtMs: this.#cancelledAtMs,
      endedAtMs,
      xbzrle: this.#xbzrle,
    };
  }

  #makeTarget(): OutgoingTarget {
    const { way, capabilities, machine, link, file, seed } = this.#scenario;
    if (way === "mapped-ram") {
      const sim = (this.#file = new SimFile(file, this.#clock));
      const shared = machine.blocks.filter((block) => block.shared).map(({ name }) => name);
      return new MappedRamTarget(sim, {
        commit: () => sim.sync(),
        ...(capabilities["x-ignore-shared"] ? { leftOut: new Set(shared) } : {}),
      });
    }
    if (capabilities.xbzrle) {
      this.#xbzrle = new XbzrleCache(this.#parameters["xbzrle-cache-size"], machine.pageSize);
    }
    const options = {
      zeroPages: this.#parameters["zero-page-detection"] !== "none",
      ...(this.#xbzrle === undefined ? {} : { xbzrle: this.#xbzrle }),
    };
    if (way === "stream-file")
      return new StreamTarget((this.#file = new SimFile(file, this.#clock)), options);
    const connection = (this.#link = new SimLink(link, this.#clock, new Random(seed * 53 + 11)));
    return new StreamTarget(connection.source, {
      ...options,
      ...(capabilities["return-path"] ? { returnPath: connection.source } : {}),
    });
  }

  #makeMigration(target: OutgoingTarget): OutgoingMigration {
    const { capabilities, live } = this.#scenario;
    const migration = new OutgoingMigration(this.#source, target, {
      capabilities,
      parameters: () => this.#parameters,
      live,
      clock: this.#clock,
      state: new MigrationState((status) => this.#onStatus(status)),
      onPass: (pass) => this.#clock.note(() => `pass ${pass}`),
      onGuest: (change) => {
        this.#clock.note(() => `guest ${change}`);
        if (change !== "stopped") return;
        const { info } = migration;
        const atMs = this.#clock.now();
        this.#stop = { atMs, sentBytes: target.transferredBytes, info, parameters: this.#parameters };
      },
      ...(this.#xbzrle === undefined ? {} : { xbzrle: this.#xbzrle }),
    });
    return migration;
  }

  #onStatus(status: KnownMigrationStatus): void {
    this.#statuses.push(status);
    this.#clock.note(() => `status ${status}`);
    const { soonAfter } = this.#scenario;
    if (soonAfter?.status === status) {
      this.#clock.after(soonAfter.afterMs, soonAfter.what, () => this.#act({ kind: soonAfter.what }));
    }
    if (status !== "pre-switchover") return;
    const { afterMs, what } = this.#scenario.atPause;
    this.#clock.after(afterMs, "pre-switchover", () => {
      if (this.#migration?.status !== "pre-switchover") return;
      if (what === "cancel") this.#cancel();
      else if (what === "run-for-a-moment") this.#runForAMoment();
      else {
        if (what !== "continue") this.#resume();
        this.#migration.continue();
        if (what !== "resume-and-pause") return;
        this.#clock.after(this.#random.below(30) * 0.1, "pause again", () => this.#act({ kind: "pause" }));
      }
    });
  }

  /** The guest changes its memory in the pause, and nothing shows it when the migration goes on. */
  #runForAMoment(): void {
    this.#resume();
    this.#clock.after(this.#scenario.habit.everyMs * 3, "end of the moment", () => {
      this.#act({ kind: "pause" });
      if (this.#migration?.status === "pre-switchover") this.#migration.continue();
    });
  }

  #scheduleUser(): void {
    const { actions, patienceMs, cancelMs, destination, destinationAtMs } = this.#scenario;
    for (const action of actions) {
      this.#clock.after(action.atMs, action.what.kind, () => this.#act(action.what));
    }
    this.#clock.after(patienceMs, "patience", () => {
      this.#act({ kind: "set", parameters: { "downtime-limit": 1e12, "max-bandwidth": 0 } });
    });
    this.#clock.after(cancelMs, "last cancel", () => this.#act({ kind: "cancel" }));
    if (destination === "aborts" || destination === "closes") {
      this.#clock.after(destinationAtMs, destination, () => {
        this.#clock.note(() => `the destination ${destination}`);
        if (destination === "aborts") this.#abortLoad.abort();
        else void this.#link?.destination.close();
      });
    }
  }

  #act(what: UserAction["what"]): void {
    const source = this.#source;
    if (!["setup", "active", "pre-switchover", "device"].includes(this.#migration?.status ?? "")) return;
    switch (what.kind) {
      case "cancel":
        this.#cancel();
        return;
      case "pause":
        // A guest that the migration stops, or has stopped: nobody can tell who it was.
        if (!source.running || source.stopping) return;
        this.#clock.note(() => "the user pauses the guest");
        this.#wish = "stopped";
        source.halt();
        return;
      case "resume":
        if (!source.stopping) this.#resume();
        return;
      case "shrink":
        this.#disturbances.push("shrink");
        source.shrink(what.block);
        return;
      case "set":
        this.#clock.note(() => `parameters ${JSON.stringify(what.parameters)}`);
        this.#parameters = { ...this.#parameters, ...what.parameters };
        this.#parametersChanged = true;
        this.#xbzrle?.resize(this.#parameters["xbzrle-cache-size"]);
    }
  }

  #cancel(): void {
    this.#clock.note(() => "the user cancels");
    this.#disturbances.push("cancel");
    this.#cancelledAtMs ??= this.#clock.now();
    this.#migration?.cancel();
  }

  #resume(): void {
    if (this.#source.running) return;
    this.#clock.note(() => "the user lets the guest go on");
    const switchingOver = this.#statuses.includes("pre-switchover") || this.#statuses.includes("device");
    if (this.#wish === "running" || switchingOver) this.#disturbances.push("resume");
    this.#wish = "running";
    void this.#source.run();
  }

  async #load(link: SimLink): Promise<Loaded> {
    const { destination, cancelMs } = this.#scenario;
    if (destination === "never-reads") {
      await this.#clock.sleep(cancelMs + 1000);
      await link.destination.close();
      throw new Error("simulation: never read");
    }
    try {
      return await loadHostFromStream(this.#destination, link.destination, {
        rules: this.#rules,
        returnPath: link.destination,
        clock: this.#clock,
        signal: this.#abortLoad.signal,
      });
    } finally {
      await link.destination.close();
    }
  }

  async #loadFile(file: SimFile): Promise<Loaded> {
    file.readsLeft = this.#scenario.goodReads;
    const { signal } = this.#abortLoad;
    if (this.#scenario.way === "mapped-ram") {
      return loadHost(this.#destination, file, { rules: this.#rules, signal });
    }
    return loadHostFromStream(this.#destination, sourceOf(file, this.#random), {
      rules: this.#rules,
      clock: this.#clock,
      signal,
    });
  }

  get #rules(): { ignoreShared: boolean; validateUuid: boolean } {
    const { capabilities, destination } = this.#scenario;
    const ignoreShared = capabilities["x-ignore-shared"] !== (destination === "other-ignore-shared");
    return { ignoreShared, validateUuid: capabilities["validate-uuid"] };
  }
}

/** A file from front to back, in reads of any length. */
export function sourceOf(file: SimFile, random: Random): ByteSource {
  let position = 0;
  return {
    read: (target) => {
      const most = Math.min(target.length, 1 + random.below(random.below(3) === 0 ? 700 : 1 << 20));
      const count = file.readAt(target.subarray(0, most), position);
      position += count;
      return Promise.resolve(count);
    },
    close: () => Promise.resolve(),
  };
}

async function ending<T>(work: Promise<T>): Promise<Ending<T>> {
  try {
    return { value: await work };
  } catch (error) {
    return { error };
  }
}

function describe(end: Ending<unknown>): string {
  return "value" in end ? "done" : String(end.error);
}
