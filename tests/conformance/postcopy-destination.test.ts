/**
 * A real QEMU goes over to postcopy while its guest rewrites memory; the engine is the destination. The guest's devices cannot
 * run here, so a toy of a guest touches memory instead, and QEMU's monitor says at the end what it has to be.
 */

import { describe, expect, onTestFinished, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import { guestMachine, migrationEnd, setCapabilities, statusOf } from "../support/migrating-guest.js";
import type { PostcopyToyHost } from "../support/postcopy-host.js";
import {
  beginPostcopyLoad,
  type PostcopyLoad,
  SourceConnections,
  touchAtRandom,
  toyHostFor,
} from "../support/postcopy-from-qemu.js";
import { type QemuMachine, QEMU_VERSIONS, startQemu, type StartQemuOptions } from "../support/qemu.js";
import { reserveHugePages } from "../support/reserve-huge-pages.js";
import { Random } from "../support/random.js";
import { useWorkDir } from "../support/work-dir.js";
import { differenceOf, memoryRanges, readGuestMemory } from "./matrix/guest-memory.js";

const MIB = 1 << 20;
const workDir = useWorkDir();

interface Scenario {
  readonly preempt: boolean;
  /** The connection is to be broken: most of memory must not have come by then. */
  readonly breaks?: boolean;
  readonly machine?: Partial<StartQemuOptions>;
}

interface Started {
  readonly source: QemuMachine;
  readonly host: PostcopyToyHost;
  readonly connections: SourceConnections;
  readonly load: PostcopyLoad;
}

/** A source that has gone over to postcopy, with the guest running here. */
async function start(version: StartQemuOptions["version"], scenario: Scenario): Promise<Started> {
  const { preempt, breaks = false } = scenario;
  const source = await startQemu(guestMachine(workDir.path, { version, ...scenario.machine }));
  await source.waitForPass(2);
  await setCapabilities(source, "postcopy-ram", ...(preempt ? ["postcopy-preempt"] : []));
  // Slow enough for a guest here to wait for pages, and to leave precopy unfinished.
  await source.qmp("migrate-set-parameters", {
    "max-bandwidth": 30 * MIB,
    "max-postcopy-bandwidth": (breaks ? 4 : 20) * MIB,
    "downtime-limit": 1,
  });
  const host = await toyHostFor(source);
  const connections = await SourceConnections.listen(workDir.file("socket"), preempt);
  onTestFinished(() => connections.close());
  await source.qmp("migrate", { uri: `unix:${workDir.file("socket")}` });
  const random = new Random(1);
  const load = await beginPostcopyLoad(host, connections, () =>
    touchAtRandom(host, random, breaks ? 300 : 4000),
  );
  // Some pages have come by precopy, and are rewritten at the source.
  await source.waitForMorePasses(1);
  await source.qmp("migrate-start-postcopy");
  await Promise.race([load.running, load.ended]);
  return { source, host, connections, load };
}

/** Both sides are done, and have the same memory. */
async function expectSame(
  { source, host, load }: Started,
  atLeast = { requests: 20, pages: 1000 },
): Promise<void> {
  const result = await load.ended;
  expect(await migrationEnd(source)).toBe("completed");
  await expect.poll(() => statusOf(source)).toBe("postmigrate");
  const { postcopy } = result;
  expect(postcopy?.requests).toBeGreaterThanOrEqual(atLeast.requests);
  expect(postcopy?.blocktime.allBlockedMs).toBeGreaterThan(0);
  expect(postcopy?.pages.normal).toBeGreaterThanOrEqual(atLeast.pages);
  const all = await memoryRanges(source);
  // What the host has, whatever the tests' usual machine has.
  const ranges = all.map((range) => {
    const { usedLength } = host.memory.blocks.find(({ name }) => name === range.block)!;
    return range.offset === 0 ? range : { ...range, length: usedLength - range.offset };
  });
  const expected = await readGuestMemory(source, ranges, workDir.file("memory"));
  const actual = ranges.map((range) => {
    const { bytes } = host.memory.blocks.find(({ name }) => name === range.block)!;
    return { range, bytes: Buffer.from(bytes.subarray(range.offset, range.offset + range.length)) };
  });
  expect(differenceOf(actual, expected)).toBeUndefined();
  expect(host.devices.length).toBeGreaterThan(5);
  expect(load.states.at(-1)?.status).toBe("completed");
}

describe.each(QEMU_VERSIONS)("postcopy from QEMU %s", (version) => {
  describeWithQemu(version, "guest with changing memory", () => {
    test.each([
      ["plain", false],
      ["with a second connection for what is asked for", true],
    ])("%s", async (_, preempt) => {
      const started = await start(version, { preempt });
      await expectSame(started);
    });

    test.each([
      ["plain", false],
      ["with a second connection", true],
    ])("recovers when the connection is broken, %s", async (_, preempt) => {
      const started = await start(version, { preempt, breaks: true });
      const { source, connections, load } = started;
      const listening = await load.running;
      for (const time of [1, 2]) {
        // In the middle: more has come since the last time, and there is more to come. At its very end, with nothing but the
        // last word missing, no source of QEMU can be mended; 11.1 even lets its guest go on.
        const { pages } = await listening.statistics();
        await expect
          .poll(async () => (await listening.statistics()).pages.normal)
          .toBeGreaterThan(pages.normal + 200);
        // Either connection.
        await connections.channels.at(preempt ? -time : -1)?.close();
        await load.entered("postcopy-paused", time);
        await expect
          .poll(async () => (await source.qmp("query-migrate")) as object)
          .toMatchObject({
            status: "postcopy-paused",
          });
        const next = connections.next();
        await source.qmp("migrate", { uri: `unix:${workDir.file("socket")}`, resume: true });
        await listening.recover(await next);
      }
      await source.qmp("migrate-set-parameters", { "max-postcopy-bandwidth": 0 });
      await expectSame(started);
    });
  });
});

describeWithQemu("10.0", "guest with memory in pages of 2 MiB", () => {
  test.for([
    ["plain", false],
    ["with a second connection for what is asked for", true],
  ] as const)("%s", async ([, preempt], { skip }) => {
    const memoryBytes = 36 * MIB;
    const missing = reserveHugePages(memoryBytes / (2 * MIB));
    if (missing !== undefined) return skip(missing);
    const started = await start("10.0", {
      preempt,
      machine: {
        memoryBytes,
        machine: "pc,memory-backend=pc.ram",
        args: [
          ...["-device", "VGA", "-device", "e1000", "-object"],
          `memory-backend-memfd,id=pc.ram,size=${memoryBytes},hugetlb=on,hugetlbsize=2M`,
        ],
      },
    });
    expect(started.host.hostPageSizes).toContain(2 * MIB);
    await expectSame(started, { requests: 3, pages: 600 });
  });
});
