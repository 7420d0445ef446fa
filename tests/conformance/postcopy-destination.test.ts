/**
 * A real QEMU goes over to postcopy while its guest rewrites memory; the engine is the destination. The guest's devices cannot
 * run here, so a toy of a guest touches memory instead, and QEMU's monitor says at the end what it has to be.
 */

import { describe, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import { QEMU_VERSIONS } from "../support/qemu.js";
import { expectSameMemory, startPostcopy } from "../support/qemu-goes-postcopy.js";
import { reserveHugePages } from "../support/reserve-huge-pages.js";
import { useWorkDir } from "../support/work-dir.js";

const MIB = 1 << 20;
const workDir = useWorkDir();

describe.each(QEMU_VERSIONS)("postcopy from QEMU %s", (version) => {
  describeWithQemu(version, "guest with changing memory", () => {
    test.each([
      ["plain", false],
      ["with a second connection for what is asked for", true],
    ])("%s", async (_, preempt) => {
      const started = await startPostcopy(workDir, version, { preempt });
      await expectSameMemory(workDir, started);
    });

    test.each([
      ["plain", false],
      ["with a second connection", true],
    ])("recovers when the connection is broken, %s", async (_, preempt) => {
      const started = await startPostcopy(workDir, version, { preempt, breaks: true });
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
      await expectSameMemory(workDir, started);
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
    const started = await startPostcopy(workDir, "10.0", {
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
    await expectSameMemory(workDir, started, { requests: 3, pages: 600 });
  });
});
