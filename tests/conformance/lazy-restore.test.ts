/**
 * Lazy restore into real QEMUs while the guest touches all of its memory at random, writes to it, and checks every page:
 * from end to end, with postcopy-preempt, and with the connection killed again and again.
 *
 * `npm run test:large` does with 6 GiB all that is done with 2 GiB here; else one restore has to do.
 */

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { CuttingRelay } from "../support/cutting-relay.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { restoreLazily } from "../support/lazy-restore.js";
import { expectMemoryIntact, type MemorySnapshot, saveMemoryGuest } from "../support/memory-guest.js";
import { migrationEnd } from "../support/migrating-guest.js";
import { QEMU_VERSIONS, type QemuVersion, startQemu } from "../support/qemu.js";
import { Random } from "../support/random.js";
import { useWorkDir } from "../support/work-dir.js";

interface Cell {
  readonly version: QemuVersion;
  readonly preempt: "on" | "off";
  /** How often the connection is killed. */
  readonly kills: number;
}

const MIB = 1 << 20;
const GIB = 2 ** 30;
const KILLS = 50;
const PREFETCHED = 16_384;
/** Bytes a second: the guest has to ask for many pages before they come by themselves. */
const FILL = (): number => 500 * MIB;

const ALL_CELLS: readonly Cell[] = [0, KILLS].flatMap((kills) =>
  QEMU_VERSIONS.flatMap((version) =>
    (["off", "on"] as const).map((preempt) => ({ version, preempt, kills })),
  ),
);
const IS_LARGE = process.env.RAMPORT_TEST_LARGE === "1";

const workDir = useWorkDir();

describeRestores(2 * GIB, ALL_CELLS);
describeRestores(6 * GIB, IS_LARGE ? ALL_CELLS : [{ version: "10.0", preempt: "off", kills: 0 }]);

function describeRestores(memoryBytes: number, cells: readonly Cell[]): void {
  const versions = QEMU_VERSIONS.filter((version) => cells.some((cell) => cell.version === version));
  describeWithQemu(versions, `lazy restore of ${memoryBytes / GIB} GiB under load`, () => {
    let folder = "";
    let snapshot: MemorySnapshot;

    beforeAll(async () => {
      folder = mkdtempSync(path.join(realpathSync(tmpdir()), "rpt-"));
      snapshot = await saveMemoryGuest(path.join(folder, "snapshot"), folder, memoryBytes);
    });
    afterAll(() => rmSync(folder, { recursive: true, force: true }));

    const named = cells.map((cell) => [titleOf(cell), cell] as const);
    test.each(named)("%s", async (_title, cell) => {
      const { version, preempt, kills } = cell;
      const destination = await startQemu({ ...snapshot.machine, version, incoming: "defer" });
      const killer = new Killer(cell, memoryBytes);
      const result = await restoreLazily({
        destination,
        snapshot,
        socketPath: workDir.file("m"),
        preempt: preempt === "on",
        options: { fillBytesPerSecond: FILL },
        onConnection: (relay) => killer.aim(relay),
      });
      expect(await migrationEnd(destination)).toBe("completed");
      expect(result.statistics.requests).toBeGreaterThan(1000);
      expect(result.statistics.recoveries).toBe(kills);
      await expectMemoryIntact(destination, snapshot);
    });

    // One in each huge page of the host's and more: what is around them must still be missing when it comes.
    test.skipIf(memoryBytes > 2 * GIB && !IS_LARGE)(
      "QEMU 10.0, single pages sent before the guest runs",
      async () => {
        const pages = Array.from({ length: PREFETCHED }, (_, index) => 1024 + 29 * index);
        const destination = await startQemu({ ...snapshot.machine, version: "10.0", incoming: "defer" });
        const result = await restoreLazily({
          destination,
          snapshot,
          socketPath: workDir.file("m"),
          options: {
            prefetch: {
              runs: pages.map((page) => ({ block: "pc.ram", start: page, end: page + 1 })),
              budgetBytes: Infinity,
              when: "before-run",
            },
          },
        });
        expect(await migrationEnd(destination)).toBe("completed");
        expect(result.statistics.recoveries).toBe(0);
        await expectMemoryIntact(destination, snapshot);
      },
    );
  });
}

function titleOf({ version, preempt, kills }: Cell): string {
  const killed = kills === 0 ? "" : `, killed ${kills} times`;
  return `QEMU ${version}${preempt === "on" ? ", preempt" : ""}${killed}`;
}

/**
 * Kills the connection at any place of the stream, though never before the guest runs: then there would be nothing to recover.
 * Some strike before the handshake of a recovery is over; not with preempt, where QEMUs of all versions crash now and then when
 * both connections break while they are still starting to use them.
 */
class Killer {
  readonly #random: Random;
  readonly #kills: number;
  readonly #mostBytes: number;
  readonly #isPreempt: boolean;
  #killed = 0;

  constructor({ version, preempt, kills }: Cell, memoryBytes: number) {
    this.#isPreempt = preempt === "on";
    this.#random = new Random(2 * QEMU_VERSIONS.indexOf(version) + (this.#isPreempt ? 1 : 0));
    this.#kills = kills;
    // Each page goes out once: on the average two thirds of them are left for what comes behind the last kill.
    this.#mostBytes = memoryBytes / KILLS / 1.5;
  }

  aim(relay: CuttingRelay): void {
    if (this.#killed === this.#kills) return;
    const isEarly = ++this.#killed % 5 === 0 && !this.#isPreempt;
    const least = this.#isPreempt || this.#killed === 1 ? MIB : 1;
    relay.cutAfter(least + this.#random.below(isEarly ? 4096 : this.#mostBytes));
  }
}
