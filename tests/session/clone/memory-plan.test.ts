import { describe, expect, test } from "vitest";

import { planMemory, sizeText, type MemoryPlan } from "../../../src/session/clone/memory-plan.js";
import { parseParts, parseQemuCommandLine } from "../../../src/session/clone/qemu-options.js";

const GIB = 2 ** 30;
const MACHINES = [
  { name: "pc-i440fx-11.1", alias: "pc", isDefault: true, defaultRamId: "pc.ram" },
  { name: "pc-i440fx-10.0", isDefault: false, defaultRamId: "pc.ram" },
  { name: "none", isDefault: false },
];
const PATH = "/srv/a,b/vm.ram";
const MAPPING = `mem-path=/srv/a,,b/vm.ram,offset=1048576,share=off,readonly=on,rom=off`;
const PC_RAM = `memory-backend-file,id=pc.ram,size=${2 * GIB},${MAPPING},x-use-canonical-path-for-ramblock-id=off`;
const PC = ["-machine", "pc-i440fx-10.0"];

interface Wanted {
  readonly blocks?: Readonly<Record<string, number>>;
  readonly leftOut?: readonly string[];
  readonly count?: number;
}

/** Plans for a snapshot of pc-i440fx-10.0, whose blocks begin at 1 MiB, 2 MiB, ... */
function plan(
  argv: readonly string[],
  { blocks = { "pc.ram": 2 * GIB, "vga.vram": 16 << 20 }, leftOut, count }: Wanted = {},
): MemoryPlan {
  const memory = {
    path: PATH,
    machine: "pc-i440fx-10.0",
    blocks: Object.entries(blocks).map(([name, usedLength], index) => ({
      name,
      usedLength,
      ...(leftOut?.includes(name) === true ? {} : { pagesOffset: (index + 1) << 20 }),
    })),
  };
  return planMemory(parseQemuCommandLine(["qemu-system-x86_64", ...argv]), memory, MACHINES, count);
}

describe("the machine's own memory", () => {
  const ADDED = ["-object", PC_RAM, "-machine", "memory-backend=pc.ram"];
  const SIZE = ["-m", "size=2097152K"];

  test.each<[string, readonly string[], readonly string[]]>([
    ["its size is added", PC, [...PC, ...ADDED, ...SIZE]],
    ["its size is as it should be", [...PC, "-m", "2G"], [...PC, "-m", "2G", ...ADDED]],
    ["in MiB", [...PC, "-m", "2048"], [...PC, "-m", "2048", ...ADDED]],
    [
      "the last -m counts",
      [...PC, "-m", "1G", "-m", "size=2G"],
      [...PC, "-m", "1G", "-m", "size=2G", ...ADDED],
    ],
    [
      "what else -m says stays",
      [...PC, "-m", "slots=2,maxmem=8G"],
      [...PC, "-m", "slots=2,maxmem=8G", ...ADDED, ...SIZE],
    ],
    [
      "-M, with other settings",
      ["-M", "pc-i440fx-10.0,accel=tcg"],
      ["-M", "pc-i440fx-10.0,accel=tcg", ...ADDED, ...SIZE],
    ],
    [
      "several -machine",
      ["-machine", "accel=tcg", ...PC, "-M", "hpet=off"],
      ["-machine", "accel=tcg", ...PC, "-M", "hpet=off", ...ADDED, ...SIZE],
    ],
    ["-incoming goes", [...PC, "-incoming", "tcp:0:4444", "-S"], [...PC, "-S", ...ADDED, ...SIZE]],
    ["-mem-path goes", [...PC, "-mem-path", "/dev/shm", "-mem-prealloc"], [...PC, ...ADDED, ...SIZE]],
    [
      "other objects stay",
      [...PC, "-object", "rng-random,id=r"],
      [...PC, "-object", "rng-random,id=r", ...ADDED, ...SIZE],
    ],
  ])("%s", (_what, argv, expected) => {
    expect(plan(argv)).toMatchObject({
      problems: [],
      argv: ["qemu-system-x86_64", ...expected],
      mainBackend: "pc.ram",
      mapped: [{ id: "pc.ram", block: "pc.ram", offset: 1 << 20, sizeBytes: 2 * GIB }],
    });
  });

  test("what was left out is said", () => {
    expect(plan([...PC, "-mem-prealloc"]).notes).toEqual([
      expect.stringMatching(/^-mem-prealloc was left out/),
    ]);
    expect(plan([...PC, "-incoming", "defer"]).notes).toEqual([]);
  });

  test("the value reads back as it was meant", () => {
    const { argv } = plan(PC);
    const parts = parseParts(argv[argv.indexOf("-object") + 1]!, "qom-type");
    expect(parts.find(({ key }) => key === "mem-path")?.value).toBe(PATH);
  });
});

describe("memory backends of the command line", () => {
  const named = (name: string): Wanted => ({ blocks: { [name]: GIB } });
  const OBJECT = "memory-backend-ram,id=mem0,size=1G,policy=bind,host-nodes=0,prealloc=on";

  test.each([
    ["mem0", "off"],
    ["/objects/mem0", "on"],
  ])("one that is the machine's memory, as block %s", (block, isPath) => {
    const argv = ["-machine", "pc-i440fx-10.0,memory-backend=mem0,accel=tcg", "-m", "1G", "-object", OBJECT];
    const planned = plan(argv, named(block));
    expect(planned).toMatchObject({ problems: [], mainBackend: "mem0", mapped: [{ id: "mem0", block }] });
    expect(planned.notes).toEqual([expect.stringMatching(/^prealloc of -object mem0 left out/)]);
    expect(planned.argv.slice(1)).toEqual([
      ...["-machine", "pc-i440fx-10.0,accel=tcg", "-m", "1G", "-object"],
      `memory-backend-file,id=mem0,size=${GIB},${MAPPING},x-use-canonical-path-for-ramblock-id=${isPath},policy=bind,host-nodes=0`,
      ...["-machine", "memory-backend=mem0"],
    ]);
  });

  test("NUMA nodes: each of them, and no memory of the machine's own", () => {
    const argv = [
      ...[...PC, "-m", "2G", "-object", "memory-backend-ram,id=n0,size=1G", "-numa", "node,memdev=n0"],
      ...["-object", '{"qom-type":"memory-backend-memfd","id":"n1","size":1073741824,"merge":false}'],
      ...["-numa", "node,memdev=n1"],
    ];
    const planned = plan(argv, { blocks: { n0: GIB, n1: GIB, "vga.vram": 16 << 20 } });
    expect(planned.problems).toEqual([]);
    expect(planned.mainBackend).toBeUndefined();
    expect(planned.mapped.map(({ id, offset }) => [id, offset])).toEqual([
      ["n0", 1 << 20],
      ["n1", 2 << 20],
    ]);
    expect(JSON.parse(planned.argv[10]!)).toEqual({
      "qom-type": "memory-backend-file",
      id: "n1",
      size: GIB,
      "mem-path": PATH,
      offset: 2 << 20,
      share: false,
      readonly: true,
      rom: "off",
      "x-use-canonical-path-for-ramblock-id": false,
      merge: false,
    });
  });

  test("memory that is plugged beside the machine's own", () => {
    const argv = [...PC, "-object", "memory-backend-ram,id=d,size=1G", "-device", "pc-dimm,memdev=d"];
    const planned = plan(argv, { blocks: { "pc.ram": 2 * GIB, d: GIB } });
    expect(planned).toMatchObject({ problems: [], mainBackend: "pc.ram" });
    expect(planned.mapped.map(({ id }) => id)).toEqual(["d", "pc.ram"]);
  });
});

describe("what does not fit is said, all of it", () => {
  test.each<[string, readonly string[], readonly RegExp[], Wanted?]>([
    [
      "another machine type",
      ["-machine", "none"],
      [/of pc-i440fx-10.0, the command line of none: write -machine pc-i440fx-10.0/],
    ],
    ["a name that moved on", ["-machine", "pc"], [/the command line of pc, here pc-i440fx-11.1: write/]],
    ["the default type", [], [/the command line of pc-i440fx-11.1: write/]],
    ["an unknown type", ["-M", "q36"], [/there is no machine type q36/]],
    ["another size", [...PC, "-m", "1G"], [/-m 1G is not the size of the snapshot's memory: write -m 2G/]],
    ["a size that is none", [...PC, "-m", "lots"], [/-m lots is not the size/]],
    [
      "a backend that is not there",
      ["-machine", "pc-i440fx-10.0,memory-backend=x"],
      [/memory-backend=x names no memory backend/],
    ],
    [
      "a backend that is not in the snapshot",
      [...PC, "-object", "memory-backend-ram,id=x,size=1G"],
      [/-object x is no memory of the snapshot \(it has pc.ram of 2G, vga.vram of 16M\)/],
    ],
    [
      "shared memory",
      [...PC, "-object", "memory-backend-memfd,id=x,size=2G,share=on"],
      [/-object x is shared/],
      { blocks: { x: 2 * GIB } },
    ],
    [
      "a backend of another size",
      [...PC, "-object", "memory-backend-ram,id=x,size=1G"],
      [/-object x has 1G, and in the snapshot 2G/],
      { blocks: { x: 2 * GIB } },
    ],
    [
      "memory of another name",
      PC,
      [/memory of pc-i440fx-10.0 is called pc.ram, and the snapshot has none/],
      { blocks: { x: GIB } },
    ],
    ["memory that was left out", PC, [/called pc.ram, and the snapshot has none/], { leftOut: ["pc.ram"] }],
    ["locked memory", [...PC, "-overcommit", "mem-lock=on"], [/mem-lock=on would give each clone a copy/]],
    ["-loadvm", [...PC, "-loadvm", "x"], [/-loadvm loads another state/]],
    ["-daemonize", [...PC, "-daemonize"], [/--detach/]],
    ["-nographic", [...PC, "-nographic"], [/-nographic is for a terminal/]],
    ["stdio", [...PC, "-serial", "mon:stdio"], [/-serial mon:stdio is for a terminal/]],
    [
      "two of these",
      ["-machine", "pc", "-m", "1G", "-nographic"],
      [/here pc-i440fx-11.1/, /-m 1G/, /-nographic/],
    ],
  ])("%s", (_what, argv, problems, wanted) => {
    expect(plan(argv, wanted).problems).toEqual(
      problems.map((problem) => expect.stringMatching(problem) as string),
    );
  });

  test("several clones share no files, sockets and names of their own", () => {
    const own = ["-serial", "file:s.log", "-pidfile", "p", "-qmp", "unix:q,server=on", "-vnc", ":1"];
    const shared = [
      "-serial",
      "null",
      "-serial",
      "file:s{n}.log",
      "-vnc",
      "none",
      "-chardev",
      "null,id=x",
      "-monitor",
      "none",
    ];
    expect(plan([...PC, ...own, ...shared]).problems).toEqual([]);
    expect(plan([...PC, ...own, ...shared], { count: 3 }).problems).toEqual(
      ["-serial file:s.log", "-pidfile p", "-qmp unix:q,server=on", "-vnc :1"].map(
        (what) => expect.stringMatching(`^${what} would be the same for 3 clones: put \\{n\\}`) as string,
      ),
    );
  });
});

test.each([
  [2 * GIB, "2G"],
  [130 << 20, "130M"],
  [34_824 * 1024, "34824K"],
  [100, "100B"],
])("%i bytes are %s", (bytes, text) => {
  expect(sizeText(bytes)).toBe(text);
});
