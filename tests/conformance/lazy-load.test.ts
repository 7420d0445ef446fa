/** Lazy loads of the engine into real QEMUs: the guest runs while its memory is still in the file. */

import { describe, expect, test } from "vitest";

import { resumeLazyLoad } from "../../src/engine/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { reserveHugePages } from "../support/reserve-huge-pages.js";
import { type ExtraMachine, LazyDestination, load, saved, SLOW_FILL } from "../support/lazy-load.js";
import { expectGoesOn, migrationEnd } from "../support/migrating-guest.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** The guest's memory in huge pages of 2 MiB. */
const HUGE_MEMORY_BYTES = 32 << 20;
const IN_HUGE_PAGES: ExtraMachine = {
  machine: "pc,memory-backend=pc.ram",
  memoryBytes: HUGE_MEMORY_BYTES,
  args: [
    ...["-device", "VGA", "-device", "e1000", "-object"],
    `memory-backend-memfd,id=pc.ram,size=${HUGE_MEMORY_BYTES},hugetlb=on,hugetlbsize=2M`,
  ],
};

describe.each(["7.2", "10.0", "11.1"] as const)("lazy load", (version) => {
  describeWithQemu(version, `into QEMU ${version}`, () => {
    test.each([
      ["as fast as it goes", {}],
      ["slowly, the guest running meanwhile", SLOW_FILL],
      ["page by page", { ...SLOW_FILL, clusterBytes: 0 }],
    ])("%s", async (_how, options) => {
      const snapshot = await saved(workDir, version);
      const destination = await LazyDestination.start(workDir, version);
      const channel = await destination.open("migrate-incoming");
      const result = await load(snapshot, channel, options);
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
      expect(result.statistics.requests).toBeGreaterThan(0);
      expect(result.statistics.recoveries).toBe(0);
    });

    test("with postcopy-preempt", async () => {
      const snapshot = await saved(workDir, version);
      const destination = await LazyDestination.start(workDir, version, ["postcopy-preempt"]);
      const channel = await destination.open("migrate-incoming");
      const result = await load(snapshot, channel, {
        ...SLOW_FILL,
        preempt: destination.preempt,
      });
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
      expect(result.statistics.askedForPages).toBeGreaterThan(0);
    });

    test.each([
      ["", []],
      [" with postcopy-preempt", ["postcopy-preempt"]],
    ])("a connection that breaks is taken up again%s", async (_what, capabilities) => {
      const snapshot = await saved(workDir, version);
      const destination = await LazyDestination.start(workDir, version, capabilities);
      let channel = await destination.open("migrate-incoming");
      const preempt = capabilities.length > 0 ? { preempt: destination.preempt } : {};
      let breaks = 0;
      const loading = load(snapshot, channel, {
        ...SLOW_FILL,
        ...preempt,
        onProgress: ({ remainingBytes = 0, totalBytes = 0 }) => {
          if (breaks > 0 || remainingBytes > totalBytes / 4) return;
          breaks += 1;
          void channel.close();
        },
        reconnect: async () => {
          await destination.isPaused();
          channel = await destination.open("migrate-recover");
          return { main: channel, returnPath: channel };
        },
      });
      const result = await loading;
      expect(result.statistics.recoveries).toBe(1);
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
    });

    test.for([
      ["", [] as string[]],
      [" with postcopy-preempt", ["postcopy-preempt"]],
    ] as const)("memory in huge pages%s", async ([, capabilities], { skip }) => {
      const missing = reserveHugePages((2 * HUGE_MEMORY_BYTES) >> 21);
      if (missing !== undefined) return skip(missing);
      const snapshot = await saved(workDir, version, IN_HUGE_PAGES);
      const destination = await LazyDestination.start(workDir, version, capabilities, IN_HUGE_PAGES);
      const channel = await destination.open("migrate-incoming");
      const result = await load(snapshot, channel, {
        fillBytesPerSecond: () => 64 << 20,
        hostPageSizeOf: (block) => (block.endsWith("pc.ram") ? 2 << 20 : undefined),
        ...(capabilities.length > 0 ? { preempt: destination.preempt } : {}),
      });
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
      expect(result.statistics.askedForPages).toBeGreaterThan(0);
      // Its memory is given back before the pool is.
      await destination.machine.kill();
    });

    test("a process that died is replaced by another one, which knows only the file", async () => {
      const snapshot = await saved(workDir, version);
      const destination = await LazyDestination.start(workDir, version);
      const channel = await destination.open("migrate-incoming");
      const started = load(snapshot, channel, { ...SLOW_FILL });
      await destination.machine.waitForPass(snapshot.state.last.pass + 1);
      await channel.close();
      await expect(started).rejects.toMatchObject({ code: "connection-closed" });
      await destination.isPaused();
      const again = await destination.open("migrate-recover");
      await load(snapshot, again, {}, resumeLazyLoad);
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
    });
  });
});
