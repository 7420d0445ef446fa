import { inspect } from "node:util";

import { DEFAULT_CAPABILITIES, DEFAULT_PARAMETERS } from "../../src/qapi/index.js";
import type { Capabilities, MigrationParameters } from "../../src/qapi/index.js";
import { Random } from "../support/random.js";
import type { FileSpec } from "./sim-file.js";
import type { GuestHabit } from "./sim-guest.js";
import type { SimBlock, SimMachine } from "./sim-host.js";
import type { LinkSpec } from "./sim-link.js";

/** Something that somebody does at a time, if the migration is still under way then. */
export interface UserAction {
  readonly atMs: number;
  readonly what:
    | { readonly kind: "pause" | "resume" | "cancel" }
    | { readonly kind: "shrink"; readonly block: number }
    | { readonly kind: "set"; readonly parameters: Partial<MigrationParameters> };
}

/** What the destination is like, beside the machine that it should be. */
export type DestinationKind =
  | "same"
  | "never-reads"
  | "closes"
  | "aborts"
  | "other-uuid"
  | "other-devices"
  | "other-length"
  | "other-ignore-shared";

/** One run, as a seed makes it. */
export interface Scenario {
  readonly seed: number;
  readonly way: "stream" | "stream-file" | "mapped-ram";
  readonly machine: SimMachine;
  readonly destinationMachine: SimMachine;
  readonly devices: readonly Uint8Array[];
  readonly habit: GuestHabit;
  readonly runsAtFirst: boolean;
  readonly live: boolean;
  readonly capabilities: Capabilities;
  readonly parameters: MigrationParameters;
  readonly actions: readonly UserAction[];
  /** What the user does soon after the migration has come so far: where the guest changes sides, moments count. */
  readonly soonAfter?: {
    readonly status: "setup" | "device";
    readonly afterMs: number;
    readonly what: "cancel" | "resume";
  };
  /** With pause-before-switchover: what happens then, and when. */
  readonly atPause: {
    readonly afterMs: number;
    readonly what: "continue" | "cancel" | "resume" | "resume-and-pause" | "run-for-a-moment";
  };
  readonly link: LinkSpec;
  readonly file: FileSpec;
  readonly destination: DestinationKind;
  readonly destinationAtMs: number;
  /** Reads of the file that succeed when it is loaded afterwards. */
  readonly goodReads: number;
  /** From then on any downtime will do. */
  readonly patienceMs: number;
  /** And then it is cancelled. */
  readonly cancelMs: number;
}

/** A scenario for people: of the settings only what is not as usual. */
export function describeScenario({ capabilities, parameters, ...scenario }: Scenario): string {
  const on = Object.entries(capabilities).flatMap(([name, state]) => (state ? [name] : []));
  const usual = Object.entries(DEFAULT_PARAMETERS);
  const set = Object.entries(parameters).filter(
    (entry) => !usual.some(([name, value]) => name === entry[0] && value === entry[1]),
  );
  return inspect(
    { ...scenario, capabilities: on, parameters: Object.fromEntries(set) },
    { depth: 5, breakLength: 140, compact: 6, maxArrayLength: 8 },
  );
}

const PAGE_SIZES = [256, 512, 1024, 4096, 4096, 4096, 16_384, 65_536] as const;
const PATTERNS = [
  "idle",
  "sequential",
  "hot",
  "back-and-forth",
  "zeroing",
  "zero-and-touch",
  "scattered",
  "few-bytes",
] as const;
const MOST_RAM_BYTES = 384 << 10;

/** Makes the run of a seed; the same seed makes the same run. */
export function scenarioOf(seed: number): Scenario {
  const random = new Random(seed * 7919 + 1);
  const chance = (oneIn: number): boolean => random.below(oneIn) === 0;
  const way = random.pick(["stream", "stream", "stream", "mapped-ram", "mapped-ram", "stream-file"] as const);
  const faults = chance(2);
  const ignoreShared = chance(5);
  const machine = makeMachine(random, ignoreShared);
  const ramBytes = machine.blocks.reduce((sum, { pages }) => sum + pages * machine.pageSize, 0);
  const autoConverge = chance(6);
  const passMs = autoConverge ? 300 : random.pick([0.5, 5, 50, 300]);
  const bytesPerMs = ramBytes / passMs;
  const limitShare = random.pick([0, 0, 0, 0.1, 0.5, 2]);
  const parameters: MigrationParameters = {
    ...DEFAULT_PARAMETERS,
    "max-bandwidth": Math.round(limitShare * bytesPerMs * 1000),
    "downtime-limit": random.pick([0, 1, 5, 20, 300]),
    "avail-switchover-bandwidth": chance(6) ? Math.ceil(bytesPerMs * 1000) : 0,
    "xbzrle-cache-size": machine.pageSize * 2 ** random.below(7),
    "zero-page-detection": random.pick(["legacy", "multifd", "multifd", "none"] as const),
    "cpu-throttle-tailslow": chance(2),
  };
  const slowest = limitShare === 0 || limitShare > 1 ? passMs : passMs / limitShare;
  const patienceMs = Math.min(8000, (autoConverge ? 16 : 6 + random.below(4)) * slowest) + 20;
  const returnPath = way === "stream" && chance(2);
  const stream = way !== "mapped-ram";
  const capabilities: Capabilities = {
    ...DEFAULT_CAPABILITIES,
    "mapped-ram": way === "mapped-ram",
    "return-path": returnPath,
    "auto-converge": autoConverge,
    "x-ignore-shared": ignoreShared,
    "validate-uuid": chance(5),
    "pause-before-switchover": chance(5),
    xbzrle: stream && chance(3),
  };
  const destination = stream && faults && chance(3) ? pickDestination(random, way) : "same";
  return {
    seed,
    way,
    machine,
    destinationMachine: { ...machine, ...destinationDifference(destination, machine) },
    devices: makeDevices(random),
    habit: makeHabit(random, machine.pageSize, bytesPerMs),
    runsAtFirst: !chance(5),
    live: !chance(6),
    capabilities,
    parameters,
    actions: makeActions(random, machine, faults, parameters, slowest, bytesPerMs),
    ...(faults && chance(4)
      ? {
          soonAfter: {
            status: random.pick(["setup", "device", "device", "device"] as const),
            afterMs: random.below(200) * random.pick([0.0001, 0.01, 0.2, 1]),
            what: random.pick(["cancel", "cancel", "resume"] as const),
          },
        }
      : {}),
    atPause: {
      afterMs: random.pick([0, 1, 40]),
      what: faults
        ? random.pick(["continue", "cancel", "resume", "resume-and-pause", "run-for-a-moment"] as const)
        : "continue",
    },
    link: makeLink(random, faults && stream, bytesPerMs, ramBytes, slowest),
    file: makeFile(random, faults, bytesPerMs, ramBytes),
    destination,
    destinationAtMs: random.below(Math.ceil(slowest * 2) + 2),
    goodReads: faults && chance(8) ? random.below(20) : Number.POSITIVE_INFINITY,
    patienceMs,
    cancelMs: destination === "never-reads" ? patienceMs : patienceMs * 3 + 10_000,
  };
}

function makeMachine(random: Random, ignoreShared: boolean): SimMachine {
  const pageSize = random.pick(PAGE_SIZES);
  const blockCount = 1 + random.below(5);
  const mostPages = Math.max(2, Math.min(100, Math.floor(MOST_RAM_BYTES / pageSize / blockCount)));
  const blocks: SimBlock[] = Array.from({ length: blockCount }, (_, index) => {
    const pages = 1 + random.below(mostPages);
    return {
      name: index === 0 ? "pc.ram" : `sim/block.${index}`,
      pages,
      segmentPages: 1 + random.below(pages),
      shared: ignoreShared && random.below(3) === 0,
      guestAddress: BigInt(index) << 32n,
    };
  });
  return {
    pageSize,
    blocks,
    dirtyLog: random.pick(["shadow", "marked", "marked", "hash"] as const),
    ...(random.below(3) === 0 ? {} : { uuid: Uint8Array.from({ length: 16 }, () => random.below(256)) }),
    deviceVersion: 1 + random.below(4),
    stopMs: random.pick([0, 0, 0.3, 5]),
    runMs: random.pick([0, 0.2]),
  };
}

/** Some of them look like other parts of a stream. */
function makeDevices(random: Random): Uint8Array[] {
  return Array.from({ length: 1 + random.below(4) }, (_, index) => {
    const device = new Uint8Array(1 + random.below(random.pick([8, 60, 3000])));
    for (let at = 0; at < device.length; at++) device[at] = random.below(256);
    const like = random.pick([
      [],
      // A footer of its own section, then EOF and a description.
      [0x7e, 0, 0, 0, 4 + index, 0, 6, 0, 0, 0, 2, 0x7b, 0x7d],
      [0, 6, 0, 0, 0, 2, 0x7b, 0x7d],
    ]);
    const place = random.below(device.length);
    for (const [at, byte] of like.entries()) if (place + at < device.length) device[place + at] = byte;
    return device;
  });
}

function makeHabit(random: Random, pageSize: number, bytesPerMs: number): GuestHabit {
  const writes = 1 + random.below(6);
  // How fast memory changes, as a part of how fast it can be sent.
  const share = random.pick([0.05, 0.3, 0.9, 3, 20]);
  const everyMs = Math.min(60, Math.max(0.3, (writes * pageSize) / (share * bytesPerMs)));
  return { pattern: random.pick(PATTERNS), everyMs, writes, moves: random.below(4) === 0 };
}

function makeActions(
  random: Random,
  machine: SimMachine,
  faults: boolean,
  parameters: MigrationParameters,
  passMs: number,
  bytesPerMs: number,
): UserAction[] {
  const actions: UserAction[] = [];
  const atMs = (): number => random.below(1000) * 0.001 * passMs * random.pick([0.01, 1, 4]);
  if (faults && random.below(3) === 0) actions.push({ atMs: atMs(), what: { kind: "cancel" } });
  if (random.below(6) === 0) {
    const pausedMs = atMs();
    actions.push({ atMs: pausedMs, what: { kind: "pause" } });
    if (random.below(2) === 0) actions.push({ atMs: pausedMs + atMs(), what: { kind: "resume" } });
  }
  if (random.below(10) === 0) actions.push({ atMs: atMs(), what: { kind: "resume" } });
  if (faults && random.below(12) === 0) {
    const block = machine.blocks.findIndex(({ pages }) => pages > 1);
    if (block >= 0) actions.push({ atMs: atMs(), what: { kind: "shrink", block } });
  }
  for (let change = random.below(4) === 0 ? 2 : 0; change > 0; change--) {
    const changed = random.pick<Partial<MigrationParameters>>([
      { "downtime-limit": random.pick([0, 10, 500]) },
      { "max-bandwidth": Math.round(random.pick([0, 0.2, 1, 3]) * bytesPerMs * 1000) },
      { "xbzrle-cache-size": machine.pageSize * 2 ** random.below(7) },
      { "avail-switchover-bandwidth": parameters["avail-switchover-bandwidth"] === 0 ? 1 << 20 : 0 },
    ]);
    actions.push({ atMs: atMs(), what: { kind: "set", parameters: changed } });
  }
  return actions;
}

function makeLink(
  random: Random,
  faults: boolean,
  bytesPerMs: number,
  ramBytes: number,
  passMs: number,
): LinkSpec {
  const reset = faults && random.below(3) === 0;
  const direction = random.pick(["forward", "forward", "back"] as const);
  const early = random.below(3) === 0;
  return {
    latencyMs: random.pick([0, 0.05, 1, 20]),
    bytesPerMs,
    capacity: random.pick([64, 4096, 65_536, 1 << 20]) + Math.floor(ramBytes / 50),
    longestRead: random.pick([1 << 20, 1 << 20, 5000, 700]),
    mostPieces: random.pick([1, 2, 6]),
    lateWrites: random.below(3) === 0,
    resetLosesBytes: random.below(2) === 0,
    ...(reset
      ? {
          resetAt: {
            direction,
            counted: early ? ("from-begin" as const) : ("from-devices" as const),
            bytes:
              direction === "back"
                ? random.below(9)
                : random.below(early ? 2 * ramBytes : random.pick([100, 5000])),
          },
        }
      : {}),
    ...(random.below(4) === 0
      ? {
          stall: {
            oneIn: random.pick([2, 10, 40]),
            ms: random.pick([2, 8, 60, 800]) * Math.min(1, passMs / 50),
          },
        }
      : {}),
  };
}

function makeFile(random: Random, faults: boolean, bytesPerMs: number, ramBytes: number): FileSpec {
  return {
    bytesPerMs,
    syncMs: random.pick([0, 1, 30]),
    syncFails: faults && random.below(6) === 0,
    ...(faults && random.below(3) === 0
      ? { fullAfter: random.below(ramBytes * random.pick([1, 1, 3]) + 2000) }
      : {}),
  };
}

function pickDestination(random: Random, way: Scenario["way"]): DestinationKind {
  if (way === "stream-file")
    return random.pick(["other-uuid", "other-devices", "other-length", "aborts"] as const);
  return random.pick([
    "never-reads",
    "closes",
    "aborts",
    "other-uuid",
    "other-devices",
    "other-length",
    "other-ignore-shared",
  ] as const);
}

function destinationDifference(kind: DestinationKind, machine: SimMachine): Partial<SimMachine> {
  switch (kind) {
    case "other-uuid":
      return { uuid: new Uint8Array(16).fill(0xdd) };
    case "other-devices":
      return { deviceVersion: machine.deviceVersion + 1 };
    case "other-length":
      return {
        blocks: machine.blocks.map((block, index) =>
          index === 0 ? { ...block, pages: block.pages + 1 } : block,
        ),
      };
    default:
      return {};
  }
}
