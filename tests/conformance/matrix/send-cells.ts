/**
 * The cells in which ramport feeds a real QEMU that waits.
 *
 * All of them restore the same snapshot, of a guest whose memory its QEMU's monitor said. Each has a new QEMU, whose memory
 * is held against that while the guest stands still; then the guest runs and checks itself.
 *
 * @module
 */

import { expect } from "vitest";

import { QmpClient } from "../../../src/qmp/index.js";
import { restoreVm, saveVm } from "../../../src/session/index.js";
import {
  expectGoesOn,
  type GuestState,
  guestState,
  migrationSettings,
} from "../../support/migrating-guest.js";
import { startQemu } from "../../support/qemu.js";
import {
  differenceOf,
  type GuestMemory,
  type MemoryRange,
  memoryRanges,
  readGuestMemory,
} from "./guest-memory.js";
import type { Role, Suite } from "./matrix-suite.js";

/** Passes that the restored guest checks itself for. Its memory as a whole was compared before. */
const PASSES = 2;

/** The guest that is restored. */
interface Saved {
  readonly file: string;
  readonly state: GuestState;
  readonly ranges: readonly MemoryRange[];
  readonly memory: GuestMemory;
}

/** How the cells are run. */
export function sendCells(suite: Suite): Role {
  let saved: Saved | undefined;
  return {
    prepare: async () => {
      saved = await save(suite);
    },
    run: async (cell, signal) => {
      const { file, state, ranges, memory } = saved ?? expect.unreachable("no snapshot to send");
      const machine = await startQemu(suite.machine({ incoming: "defer" }));
      try {
        await using qmp = await QmpClient.connect(machine.qmpPath);
        const settings = await migrationSettings(machine);
        const result = await restoreVm(qmp, file, {
          method: "send",
          then: "pause",
          signal,
          ...(cell.channels === 0 ? {} : { channels: cell.channels }),
          multifdCompression: cell.compression,
          ...suite.tlsOptions(cell),
        });
        expect(result).toMatchObject({ method: "send", guest: "paused" });
        expect(await migrationSettings(machine)).toEqual(settings);
        const loaded = await readGuestMemory(machine, ranges, suite.file("memory"));
        expect(differenceOf(loaded, memory)).toBeUndefined();
        await machine.qmp("cont");
        await expectGoesOn(machine, state, PASSES);
      } finally {
        await machine.kill();
      }
    },
  };
}

/** Saves a running guest over one connection, the way that is the same for each QEMU. */
async function save(suite: Suite): Promise<Saved> {
  const machine = await startQemu(suite.machine());
  try {
    await machine.waitForPass(2);
    const ranges = await memoryRanges(machine);
    const file = suite.file("saved.ram");
    await using qmp = await QmpClient.connect(machine.qmpPath);
    await saveVm(qmp, file, { live: true, method: "stream" });
    const memory = await readGuestMemory(machine, ranges, suite.file("memory"));
    return { file, state: guestState(machine), ranges, memory };
  } finally {
    await machine.kill();
  }
}
