/**
 * The tables and rules of src/qapi against a real QEMU 11.1: names, order, defaults, ranges, and which settings go
 * together. Nothing migrates here but for the tests of what comes too late.
 */

import { expect, test } from "vitest";

import {
  CAPABILITIES,
  CAPABILITY_NAMES,
  capabilitiesAnswer,
  capabilitiesFrom,
  checkCapabilities,
  checkParameters,
  DEFAULT_CAPABILITIES,
  DEFAULT_PARAMETERS,
  findCapabilityConflict,
  findLateCapability,
  findParameterConflict,
  findUnsupportedParameter,
  MIGRATION_STATUSES,
  PARAMETER_NAMES,
  PARAMETERS,
  parametersAnswer,
  parseCapabilityChanges,
  parseParameterChanges,
  RUN_STATES,
  type Capabilities,
  type CapabilityName,
  type MigrationInfo,
  type MigrationParameters,
  type ParameterName,
} from "../../src/qapi/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { startQemu, type QemuMachine, type StartQemuOptions } from "../support/qemu.js";
import { Random } from "../support/random.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** What QEMU refuses because of the machine it runs on, before it gets to some of its other rules. */
const HOST_REASONS = /requires KVM|not supported by host kernel|not compatible with guest memory|uffd/i;

async function start(options: Partial<StartQemuOptions> = {}): Promise<QemuMachine> {
  return startQemu({
    version: "11.1",
    memoryBytes: 8 << 20,
    paused: true,
    workDir: workDir.path,
    ...options,
  });
}

/** QEMU's words when it refuses; undefined when it accepts. */
async function refusal(machine: QemuMachine, command: string, args: object): Promise<string | undefined> {
  try {
    await machine.qmp(command, args as Record<string, unknown>);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Our words for the same. */
function ours(run: () => unknown): string | undefined {
  try {
    run();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

async function setCapabilities(
  machine: QemuMachine,
  states: Partial<Capabilities>,
): Promise<string | undefined> {
  const capabilities = Object.entries(states).map(([capability, state]) => ({ capability, state }));
  return refusal(machine, "migrate-set-capabilities", { capabilities });
}

function only(...names: readonly CapabilityName[]): Capabilities {
  return capabilitiesFrom(({ name }) => names.includes(name));
}

/** Sets a whole set on a QEMU, and holds our rule to its answer. Returns whether the host had a say instead. */
async function compareSet(
  machine: QemuMachine,
  names: readonly CapabilityName[],
): Promise<"judged" | "host"> {
  const wanted = only(...names);
  const answer = await setCapabilities(machine, wanted);
  const conflict = findCapabilityConflict(wanted, DEFAULT_PARAMETERS);
  if (answer === undefined) await setCapabilities(machine, DEFAULT_CAPABILITIES);
  if (answer !== undefined && HOST_REASONS.test(answer)) return "host";
  const what = names.join(" + ");
  expect(
    `${what}: ${conflict === undefined ? "accepted" : "refused"}`,
    conflict?.message ?? answer ?? "",
  ).toBe(`${what}: ${answer === undefined ? "accepted" : "refused"}`);
  return "judged";
}

interface SchemaEntry {
  readonly name: string;
  readonly "meta-type": string;
  readonly members?: readonly { readonly name: string; readonly type: string; readonly default?: null }[];
  readonly [field: string]: unknown;
}

class Schema {
  readonly #entries: ReadonlyMap<string, SchemaEntry>;

  constructor(entries: readonly SchemaEntry[]) {
    this.#entries = new Map(entries.map((entry) => [entry.name, entry]));
  }

  static async of(machine: QemuMachine): Promise<Schema> {
    return new Schema((await machine.qmp("query-qmp-schema")) as SchemaEntry[]);
  }

  /** Names of a type's members, in order; the type stands in a field of a command. */
  members(command: string, field: "arg-type" | "ret-type", ...path: readonly string[]): readonly string[] {
    let type = this.#type(this.#type(command)[field] as string);
    for (const step of path) {
      type = this.#type(type.members!.find(({ name }) => name === step)!.type);
      if (type["meta-type"] === "array") type = this.#type(type["element-type"] as string);
    }
    return type.members!.map(({ name }) => name);
  }

  #type(name: string): SchemaEntry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new Error(`no ${name} in QEMU's schema`);
    return entry;
  }
}

/** Every field of a MigrationInfo, for the comparison with QEMU's schema: the compiler holds it to the type. */
const INFO: { readonly [Field in keyof MigrationInfo]-?: readonly string[] } = {
  status: [],
  ram: [
    "transferred",
    "remaining",
    "total",
    "duplicate",
    "normal",
    "normal-bytes",
    "dirty-pages-rate",
    "mbps",
    "dirty-sync-count",
    "postcopy-requests",
    "page-size",
    "multifd-bytes",
    "pages-per-second",
    "precopy-bytes",
    "downtime-bytes",
    "postcopy-bytes",
    "dirty-sync-missed-zero-copy",
  ] satisfies readonly (keyof NonNullable<MigrationInfo["ram"]>)[],
  remaining: [],
  vfio: ["transferred"] satisfies readonly (keyof NonNullable<MigrationInfo["vfio"]>)[],
  "xbzrle-cache": [
    "cache-size",
    "bytes",
    "pages",
    "cache-miss",
    "cache-miss-rate",
    "encoding-rate",
    "overflow",
  ] satisfies readonly (keyof NonNullable<MigrationInfo["xbzrle-cache"]>)[],
  "total-time": [],
  "expected-downtime": [],
  downtime: [],
  "setup-time": [],
  "cpu-throttle-percentage": [],
  "error-desc": [],
  "blocked-reasons": [],
  "postcopy-blocktime": [],
  "postcopy-vcpu-blocktime": [],
  "postcopy-latency": [],
  "postcopy-latency-dist": [],
  "postcopy-vcpu-latency": [],
  "postcopy-non-vcpu-latency": [],
  "socket-address": [],
  "dirty-limit-throttle-time-per-round": [],
  "dirty-limit-ring-full-time": [],
};

describeWithQemu("11.1", "names and defaults", () => {
  test("states, in QEMU's order", async () => {
    const schema = await Schema.of(await start());
    expect(MIGRATION_STATUSES).toEqual(schema.members("query-migrate", "ret-type", "status"));
    expect(RUN_STATES).toEqual(schema.members("query-status", "ret-type", "status"));
  });

  test("every field of query-migrate", async () => {
    const schema = await Schema.of(await start());
    expect(Object.keys(INFO)).toEqual(schema.members("query-migrate", "ret-type"));
    for (const [field, members] of Object.entries(INFO)) {
      if (members.length === 0) continue;
      expect(members, field).toEqual(schema.members("query-migrate", "ret-type", field));
    }
  });

  test("capabilities: names, order, defaults", async () => {
    const machine = await start();
    expect(capabilitiesAnswer(DEFAULT_CAPABILITIES)).toEqual(await machine.qmp("query-migrate-capabilities"));
    expect(CAPABILITIES).toHaveLength(21);
  });

  test("parameters: names, order of the schema, defaults, values of enumerations", async () => {
    const machine = await start();
    const schema = await Schema.of(machine);
    expect(PARAMETER_NAMES).toEqual(schema.members("migrate-set-parameters", "arg-type"));
    const answer = parametersAnswer(DEFAULT_PARAMETERS);
    expect(answer).toEqual(await machine.qmp("query-migrate-parameters"));
    for (const name of PARAMETER_NAMES) {
      const spec = PARAMETERS[name];
      if (spec.type !== "enum") continue;
      expect(spec.values, name).toEqual(schema.members("migrate-set-parameters", "arg-type", name));
    }
    // Absent in a QEMU, too, until it is set: without it bitmaps keep their own names, which no list could say.
    expect(PARAMETER_NAMES.filter((name) => !(name in answer))).toEqual(["block-bitmap-mapping"]);
  });
});

describeWithQemu("11.1", "which capabilities go together", () => {
  test("each alone and every pair", async () => {
    const machine = await start();
    const byHost: string[] = [];
    for (const [index, one] of CAPABILITY_NAMES.entries()) {
      for (const other of CAPABILITY_NAMES.slice(index)) {
        const names = one === other ? [one] : [one, other];
        if ((await compareSet(machine, names)) === "host") byHost.push(names.join(" + "));
      }
    }
    // Only these two depend on the host; everything else must have been judged.
    expect(byHost.filter((names) => !/dirty-limit|background-snapshot/.test(names))).toEqual([]);
  });

  test("500 random sets", async () => {
    const machine = await start();
    const random = new Random(11);
    const names: CapabilityName[] = [];
    for (const name of CAPABILITY_NAMES) {
      // What this host refuses would hide the rules behind it.
      if ((await compareSet(machine, [name])) === "judged") names.push(name);
    }
    expect(names.length).toBeGreaterThanOrEqual(CAPABILITY_NAMES.length - 2);
    for (let round = 0; round < 500; round++) {
      const density = 2 + random.below(5);
      expect(
        await compareSet(
          machine,
          names.filter(() => random.below(density) === 0),
        ),
      ).toBe("judged");
    }
  });

  test.each([
    [{ "multifd-compression": "zlib" }, "multifd-compression"],
    [{ "tls-creds": "tls0" }, "tls-creds"],
  ] as const)("zero-copy-send with %j", async (changes, culprit) => {
    const machine = await start();
    const wanted = only("multifd", "zero-copy-send");
    await machine.qmp("migrate-set-parameters", changes);
    expect(await setCapabilities(machine, wanted)).toMatch(/Zero copy only available/);
    const parameters: MigrationParameters = { ...DEFAULT_PARAMETERS, ...changes };
    expect(findCapabilityConflict(wanted, parameters)?.names).toEqual(["zero-copy-send", culprit]);

    await machine.qmp("migrate-set-parameters", { "multifd-compression": "none", "tls-creds": "" });
    expect(await setCapabilities(machine, wanted)).toBeUndefined();
    expect(await refusal(machine, "migrate-set-parameters", changes)).toMatch(/Zero copy only available/);
    expect(findParameterConflict(parameters, wanted)?.names).toEqual(["zero-copy-send", culprit]);
  });

  test.each([
    [{ "multifd-compression": "zlib" }, "multifd-compression"],
    [{ "tls-creds": "tls0" }, "tls-creds"],
  ] as const)(
    "mapped-ram with %j: refused here at once, by QEMU at the next change",
    async (changes, culprit) => {
      const machine = await start();
      const wanted = only("mapped-ram");
      expect(await setCapabilities(machine, wanted)).toBeUndefined();
      expect(await refusal(machine, "migrate-set-parameters", changes)).toBeUndefined();
      expect(await refusal(machine, "migrate-set-parameters", { "downtime-limit": 1 })).toMatch(
        /Mapped-ram only/,
      );
      const parameters: MigrationParameters = { ...DEFAULT_PARAMETERS, ...changes };
      expect(findParameterConflict(parameters, wanted)?.names).toEqual(["mapped-ram", culprit]);
      expect(findCapabilityConflict(wanted, parameters)?.names).toEqual(["mapped-ram", culprit]);
    },
  );
});

/** Numbers at the ends of a parameter's range, and just outside. */
function edges(name: ParameterName): readonly number[] {
  const spec = PARAMETERS[name];
  if (spec.type !== "integer") return [];
  const { minimum, maximum } = spec;
  // Where the range ends only because a number of JavaScript does, QEMU goes on.
  const above = maximum === Number.MAX_SAFE_INTEGER ? [] : [maximum + 1];
  const below = minimum > 0 ? [minimum - 1] : [];
  if (spec.powerOfTwo !== true) return [...below, minimum, maximum, ...above];
  const middle = [minimum * 2, minimum * 2 + 1, minimum * 3, minimum / 2];
  const top = maximum === Number.MAX_SAFE_INTEGER ? [2 ** 52, maximum] : [maximum];
  return [...below, minimum, ...middle, ...top, ...above];
}

/** Values of each other type: those that are right, then those that are wrong. */
function samples(name: ParameterName): readonly unknown[] {
  const spec = PARAMETERS[name];
  const wrong = [null, {}, [1], "x", 1, true];
  switch (spec.type) {
    case "integer":
      return [...edges(name), "1", 1.5, true, null, {}, []];
    case "boolean":
      return [true, false, ...wrong];
    case "enum":
      return [...spec.values, "", "gzip", ...wrong];
    case "string":
      return ["", "x", null, 1, true, {}, []];
    case "strings":
      return [[], ["a", "b"], [1], ["a", null], "a", null, {}];
    case "bitmap-mapping":
      return [
        [],
        [{ "node-name": "n", alias: "a", bitmaps: [] }],
        [
          {
            "node-name": "n",
            alias: "a",
            bitmaps: [{ name: "b", alias: "c", transform: { persistent: true } }],
          },
        ],
        [{ "node-name": "n", alias: "a", bitmaps: [{ name: "b", alias: "c", transform: {} }] }],
        [{ "node-name": "n", alias: "a" }],
        [{ "node-name": 1, alias: "a", bitmaps: [] }],
        [{ "node-name": "n", alias: "a", bitmaps: [{ name: "b", alias: 1 }] }],
        [{ "node-name": "n", alias: "a", bitmaps: [{ name: "b", alias: "c", more: 1 }] }],
        [
          {
            "node-name": "n",
            alias: "a",
            bitmaps: [{ name: "b", alias: "c", transform: { persistent: 1 } }],
          },
        ],
        [1],
        {},
        "n",
        null,
      ];
  }
}

describeWithQemu("11.1", "what a parameter takes", () => {
  test.each(PARAMETER_NAMES)("%s", async (name) => {
    const machine = await start();
    // Out of the way of max-cpu-throttle, which must not be less.
    await machine.qmp("migrate-set-parameters", { "cpu-throttle-initial": 1 });
    for (const value of samples(name)) {
      const answer = await refusal(machine, "migrate-set-parameters", { [name]: value });
      const own = ours(() => parseParameterChanges({ [name]: value }));
      expect(own === undefined, `${name}: ${JSON.stringify(value)}: ${answer ?? own ?? ""}`).toBe(
        answer === undefined,
      );
      if (answer !== undefined) continue;
      const shown = (await machine.qmp("query-migrate-parameters")) as MigrationParameters;
      expect(shown[name]).toEqual(parseParameterChanges({ [name]: value })[name]);
    }
  });

  test("an integer beyond 2^53 or below zero: QEMU takes what a number of JavaScript cannot hold, ramport does not", async () => {
    const machine = await start();
    const wide = PARAMETER_NAMES.filter((name) => {
      const spec = PARAMETERS[name];
      return spec.type === "integer" && spec.maximum === Number.MAX_SAFE_INTEGER && spec.powerOfTwo !== true;
    });
    expect(wide).toEqual([
      "max-bandwidth",
      "avail-switchover-bandwidth",
      "max-postcopy-bandwidth",
      "vcpu-dirty-limit",
    ]);
    for (const name of wide) {
      for (const value of [2 ** 53, -1]) {
        expect(await refusal(machine, "migrate-set-parameters", { [name]: value }), name).toBeUndefined();
        expect(
          ours(() => parseParameterChanges({ [name]: value })),
          name,
        ).toMatch(name);
      }
    }
  });

  test("max-cpu-throttle and cpu-throttle-initial against each other", async () => {
    const machine = await start();
    let current = DEFAULT_PARAMETERS;
    for (const changes of [
      { "cpu-throttle-initial": 50, "max-cpu-throttle": 40 },
      { "max-cpu-throttle": 30 },
      { "cpu-throttle-initial": 31 },
      { "cpu-throttle-initial": 30 },
      { "max-cpu-throttle": 29 },
      { "cpu-throttle-initial": 60, "max-cpu-throttle": 60 },
      { "cpu-throttle-initial": 99, "max-cpu-throttle": 99 },
    ]) {
      const answer = await refusal(machine, "migrate-set-parameters", changes);
      const own = ours(() => (current = checkParameters(changes, current, DEFAULT_CAPABILITIES)));
      expect(own === undefined, `${JSON.stringify(changes)}: ${answer ?? own ?? ""}`).toBe(
        answer === undefined,
      );
      expect(parametersAnswer(current)).toEqual(await machine.qmp("query-migrate-parameters"));
    }
  });

  test("direct-io without mapped-ram is no conflict", async () => {
    const machine = await start();
    expect(await refusal(machine, "migrate-set-parameters", { "direct-io": true })).toBeUndefined();
    const parameters: MigrationParameters = { ...DEFAULT_PARAMETERS, "direct-io": true };
    expect(findParameterConflict(parameters, DEFAULT_CAPABILITIES)).toBeUndefined();
    expect(findUnsupportedParameter({ "direct-io": true })).toBeUndefined();
  });
});

describeWithQemu("11.1", "arguments that are wrong", () => {
  const refused: readonly (readonly [string, object])[] = [
    ["migrate-set-capabilities", {}],
    ["migrate-set-capabilities", { capabilities: {} }],
    ["migrate-set-capabilities", { capabilities: [], more: 1 }],
    ["migrate-set-capabilities", { capabilities: [1] }],
    ["migrate-set-capabilities", { capabilities: [{ capability: "xbzrle" }] }],
    ["migrate-set-capabilities", { capabilities: [{ state: true }] }],
    ["migrate-set-capabilities", { capabilities: [{ capability: "xbzrle", state: 1 }] }],
    ["migrate-set-capabilities", { capabilities: [{ capability: 1, state: true }] }],
    ["migrate-set-capabilities", { capabilities: [{ capability: "xbzrle", state: true, more: 1 }] }],
    ["migrate-set-capabilities", { capabilities: [{ capability: "zero-blocks", state: false }] }],
    ["migrate-set-capabilities", { capabilities: [{ capability: "compress", state: false }] }],
    ["migrate-set-capabilities", { capabilities: [{ capability: "__proto__", state: false }] }],
    ["migrate-set-parameters", { "compress-level": 1 }],
    ["migrate-set-parameters", { constructor: 1 }],
  ];

  test("are refused", async () => {
    const machine = await start();
    for (const [command, args] of refused) {
      const message = `${command} ${JSON.stringify(args)}`;
      expect.soft(await refusal(machine, command, args), message).toBeDefined();
      const parse = command === "migrate-set-capabilities" ? parseCapabilityChanges : parseParameterChanges;
      expect
        .soft(
          ours(() => parse(args)),
          message,
        )
        .toBeDefined();
    }
    // All of them were answers: a QEMU that has ended refuses everything.
    await machine.qmp("query-status");
  });

  test.each([
    [[]],
    [
      [
        { capability: "xbzrle", state: true },
        { capability: "xbzrle", state: false },
      ],
    ],
    [
      [
        { capability: "xbzrle", state: false },
        { capability: "xbzrle", state: true },
      ],
    ],
  ])("right: %j", async (capabilities) => {
    const machine = await start();
    await machine.qmp("migrate-set-capabilities", { capabilities });
    const changes = parseCapabilityChanges({ capabilities });
    const result = checkCapabilities(changes, DEFAULT_CAPABILITIES, DEFAULT_PARAMETERS, "idle");
    expect(capabilitiesAnswer(result)).toEqual(await machine.qmp("query-migrate-capabilities"));
  });
});

describeWithQemu("11.1", "what comes too late", () => {
  test("during a migration: capabilities never, parameters always", async () => {
    const machine = await start();
    const destination = await start({ incoming: "defer" });
    await destination.qmp("migrate-incoming", { uri: `unix:${workDir.file("in")}` });
    await machine.qmp("migrate-set-capabilities", {
      capabilities: [{ capability: "pause-before-switchover", state: true }],
    });
    await machine.qmp("migrate", { uri: `unix:${workDir.file("in")}` });
    const current = only("pause-before-switchover");
    for (const changes of [{}, { events: true }, { "pause-before-switchover": false }]) {
      expect(await setCapabilities(machine, changes)).toMatch(/migration process in progress/);
      expect(findLateCapability(changes, current, "outgoing")?.kind).toBe("too-late");
    }
    for (const name of PARAMETER_NAMES) {
      if (name === "block-bitmap-mapping") continue;
      const changes = { [name]: DEFAULT_PARAMETERS[name] };
      expect(await refusal(machine, "migrate-set-parameters", changes), name).toBeUndefined();
      checkParameters(changes, DEFAULT_PARAMETERS, current);
    }
  });

  test("with the address of an incoming migration: multifd and postcopy-preempt", async () => {
    const machine = await start({ incoming: "defer" });
    await machine.qmp("migrate-incoming", { uri: `unix:${workDir.file("in")}` });
    for (const name of CAPABILITY_NAMES) {
      const wanted = name === "postcopy-preempt" ? only(name, "postcopy-ram") : only(name);
      const answer = await setCapabilities(machine, wanted);
      const late = findLateCapability(wanted, DEFAULT_CAPABILITIES, "incoming");
      expect(late !== undefined, name).toBe((answer ?? "").includes("before incoming starts"));
      if (answer === undefined) await setCapabilities(machine, DEFAULT_CAPABILITIES);
    }
  });

  test("multifd that was on before stays, and goes only once", async () => {
    const machine = await start({ incoming: "defer" });
    await setCapabilities(machine, { multifd: true });
    await machine.qmp("migrate-incoming", { uri: `unix:${workDir.file("in")}` });
    let current = only("multifd");
    for (const changes of [{ multifd: true }, { events: true }, { multifd: false }, { multifd: true }]) {
      const answer = await setCapabilities(machine, changes);
      expect(findLateCapability(changes, current, "incoming") === undefined, JSON.stringify(changes)).toBe(
        answer === undefined,
      );
      if (answer === undefined) current = { ...current, ...changes };
    }
    expect(current.multifd).toBe(false);
  });
});
