/**
 * The cells in which ramport captures what a real QEMU sends.
 *
 * One QEMU is the source of all of them: its guest rewrites memory while it migrates, and goes on after each cell, checking
 * itself all the time. When a cell's migration has completed the guest stands still, so that QEMU's monitor can say what its
 * memory is: each file is held against that, byte for byte, and verified. Loading each into a QEMU would take as long as all
 * the rest and look at the same bytes once more; a sample with each value of each dimension is loaded, for what only a running
 * guest shows (devices, and that QEMU takes the file).
 *
 * @module
 */

import { expect } from "vitest";

import { parseMigrationUri } from "../../../src/channels/index.js";
import { asError } from "../../../src/errors/as-error.js";
import { QmpClient } from "../../../src/qmp/index.js";
import { receiveSnapshot, type ReceiveSnapshotOptions, restoreVm } from "../../../src/session/index.js";
import { verifySnapshot } from "../../../src/snapshot/index.js";
import {
  expectGoesOn,
  guestState,
  loadWithQemuAlone,
  migrationEnd,
  statusOf,
} from "../../support/migrating-guest.js";
import { type QemuMachine, startQemu } from "../../support/qemu.js";
import { type Cell, cellsToRun, sampleOf } from "./cells.js";
import {
  differenceOf,
  type MemoryRange,
  memoryRanges,
  readFileMemory,
  readGuestMemory,
} from "./guest-memory.js";
import type { Role, Suite } from "./matrix-suite.js";

/** Passes of the guest between two cells: it has found its memory right, and changed some. */
const PASSES = 1;

/** How the cells are run. */
export function receiveCells(suite: Suite): Role {
  const { version } = suite;
  const sample = sampleOf(cellsToRun(version, "receive"));
  let source: QemuMachine | undefined;
  let ranges: readonly MemoryRange[] = [];

  const started = async (): Promise<QemuMachine> => {
    if (source !== undefined) return source;
    source = await startQemu(suite.machine());
    for (const kind of ["x509", "psk"] as const) {
      const object = { id: kind, endpoint: "client", dir: suite.credentials(kind) };
      await source.qmp("object-add", { "qom-type": `tls-creds-${kind}`, ...object });
    }
    await source.waitForPass(2);
    ranges = await memoryRanges(source);
    return source;
  };

  return {
    prepare: async () => {
      await started();
    },
    recover: async () => {
      await source?.kill();
      source = undefined;
    },
    run: async (cell, signal) => {
      const machine = await started();
      if ((await statusOf(machine)) === "postmigrate") await machine.qmp("cont");
      await machine.waitForMorePasses(PASSES);
      await configure(machine, cell);
      const path = suite.file("captured.ram");
      await capture(machine, path, signal, {
        ...(cell.channels === 0 ? {} : { channels: cell.channels }),
        ...suite.tlsOptions(cell),
      });
      await expectMigratedAs(machine, cell);
      const reference = await readGuestMemory(machine, ranges, suite.file("memory"));
      expect(differenceOf(readFileMemory(path, ranges), reference)).toBeUndefined();
      expect(await verifySnapshot(path)).toMatchObject({ ok: true, problems: [] });
      if (sample.includes(cell)) await expectLoads(suite, machine, path, signal);
    },
  };
}

/** Everything that a cell says is set, whatever the cell before it had. */
async function configure(machine: QemuMachine, cell: Cell): Promise<void> {
  const { version, channels, compression, zeroPages, tls } = cell;
  await machine.qmp("migrate-set-capabilities", {
    capabilities: [
      { capability: "multifd", state: channels > 0 },
      { capability: "return-path", state: true },
    ],
  });
  const parameters = {
    "multifd-channels": Math.max(channels, 1),
    "multifd-compression": compression,
    "tls-creds": tls === "none" ? "" : tls,
    "max-bandwidth": 0,
    // Goes on until it is told otherwise.
    "downtime-limit": 0,
    ...(version === "7.2" ? {} : { "zero-page-detection": zeroPages }),
  };
  await machine.qmp("migrate-set-parameters", parameters);
  expect(await machine.qmp("query-migrate-parameters")).toMatchObject(parameters);
}

/** Migrates round after round until the guest has made memory zero that was not, and the other way round. */
async function migrateForPasses(machine: QemuMachine, uri: string): Promise<void> {
  await machine.qmp("migrate", { uri });
  await machine.waitForMorePasses(2);
  await machine.qmp("migrate-set-parameters", { "downtime-limit": 60_000 });
}

/** Migrates into a file. What QEMU says of a failure comes with it. */
async function capture(
  machine: QemuMachine,
  path: string,
  signal: AbortSignal,
  options: Pick<ReceiveSnapshotOptions, "channels" | "tls">,
): Promise<void> {
  const refused = new AbortController();
  try {
    await receiveSnapshot(parseMigrationUri("tcp:127.0.0.1:0"), path, {
      ...options,
      replace: true,
      signal: AbortSignal.any([signal, refused.signal]),
      onListening: (uri) => {
        migrateForPasses(machine, uri).catch((error: unknown) => refused.abort(error));
      },
    });
  } catch (error) {
    const said = JSON.stringify(await machine.qmp("query-migrate"));
    throw new Error(`${asError(error).message}; QEMU: ${said} ${machine.stderr}`, { cause: error });
  }
}

/** The cell was what its name says: QEMU's own counters. */
async function expectMigratedAs(machine: QemuMachine, { channels, zeroPages }: Cell): Promise<void> {
  expect(await migrationEnd(machine)).toBe("completed");
  const { ram } = (await machine.qmp("query-migrate")) as { ram: Record<string, number> };
  expect(ram["multifd-bytes"]! > 0, "pages over channels").toBe(channels > 0);
  expect(ram.duplicate! > 0, "zero pages").toBe(zeroPages !== "none");
  expect(ram["dirty-sync-count"], "rounds").toBeGreaterThanOrEqual(2);
}

/** The file's guest runs in another QEMU and finds its memory right. */
async function expectLoads(
  suite: Suite,
  source: QemuMachine,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  const state = guestState(source);
  const destination = await startQemu(suite.machine({ incoming: "defer" }));
  try {
    if (suite.version === "7.2") {
      await using qmp = await QmpClient.connect(destination.qmpPath);
      await restoreVm(qmp, path, { signal });
    } else {
      await loadWithQemuAlone(destination, path);
    }
    await expectGoesOn(destination, state);
  } finally {
    await destination.kill();
  }
}
