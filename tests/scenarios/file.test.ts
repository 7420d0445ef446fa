/** QEMU's file-tests.c: into a file, and out of it again. */

import { closeSync, constants, openSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { ramport, ramportJson } from "../support/ramport-cli.js";
import type { StartVmOptions } from "../support/vm-process.js";
import { useWorkDir } from "../support/work-dir.js";
import {
  endMachinesAfterEach,
  ensureConverge,
  expectCompleted,
  expectGoesOn,
  expectLoaded,
  expectRunsOn,
  MEMORY_BYTES,
  migrate,
  migrateIncoming,
  startPair,
  stopSource,
} from "./framework.js";

const workDir = useWorkDir();
endMachinesAfterEach();

/** Where a stream starts that does not start at the beginning of its file. */
const OFFSET = 0x1000;
const MARKER = "X".repeat(OFFSET);

/** What a file scenario is. */
interface FileScenario {
  /** What the machines call the file; default its path. */
  readonly name?: string;
  readonly stopped: boolean;
  readonly capabilities?: readonly string[];
  readonly source?: StartVmOptions;
  readonly target?: StartVmOptions;
  /** The stream does not start where the file does. */
  readonly offset?: number;
}

const filePath = (): string => workDir.file("migfile");

/** `test_file_common`: the destination reads what the source has finished. */
async function migrateByFile(scenario: FileScenario): Promise<void> {
  const { stopped, capabilities = [], source = {}, target = {}, offset } = scenario;
  const place = offset === undefined ? "" : `,offset=${offset}`;
  const uri = `file:${scenario.name ?? filePath()}${place}`;
  const pair = await startPair({ incoming: "defer", capabilities, source, target });
  const { from, to } = pair;
  await ensureConverge(from);
  if (stopped) await stopSource(pair);
  await migrate(pair, uri);
  await expectCompleted(pair, { live: !stopped });
  await expectReadable(`${filePath()}${place}`);
  await migrateIncoming(to, uri);
  await expectLoaded(pair, { resumed: !stopped, deferred: true });
  if (stopped) await to.qmp("cont");
  await to.waitForEvent("RESUME");
  await expectGoesOn(pair);
}

/** Nothing is wrong with the file, and what it says of its machine is there. */
async function expectReadable(name: string): Promise<void> {
  const verified = await ramport(["verify", name]);
  expect(verified).toMatchObject({ code: 0 });
  const { devices } = (await ramportJson(["inspect", name])) as { devices: readonly { name: string }[] };
  expect(devices.map((device) => device.name)).toContain("globalstate");
  expect(devices.length).toBeGreaterThan(1);
}

/** What stood before the stream is as it was, and a stream begins behind it. */
function expectOffsetKept(): void {
  const file = readFileSync(filePath());
  expect(file.toString("latin1", 0, OFFSET)).toBe(MARKER);
  expect(file.toString("latin1", OFFSET, OFFSET + 4)).toBe("QEVM");
}

/** Descriptors of the file, for each machine its own, while they start. */
async function withDescriptors(
  run: (descriptors: readonly [number, number]) => Promise<void>,
): Promise<void> {
  const descriptors = [openSync(filePath(), constants.O_WRONLY), openSync(filePath(), "r")] as const;
  try {
    await run(descriptors);
  } finally {
    descriptors.forEach((fd) => closeSync(fd));
  }
}

describe("/migration/precopy/file", () => {
  test("/migration/precopy/file", async () => {
    await migrateByFile({ stopped: true });
  });

  test("/migration/precopy/file/offset", async () => {
    writeFileSync(filePath(), MARKER);
    await migrateByFile({ stopped: false, offset: OFFSET });
    expectOffsetKept();
  });

  test("/migration/precopy/file/offset/fdset", async () => {
    writeFileSync(filePath(), MARKER);
    await withDescriptors(async ([write, read]) => {
      await migrateByFile({
        stopped: false,
        name: "/dev/fdset/1",
        offset: OFFSET,
        source: { args: ["-add-fd", "fd=3,set=1"], cli: { inherit: [write] } },
        target: { args: ["-add-fd", "fd=3,set=1"], cli: { inherit: [read] } },
      });
    });
    expectOffsetKept();
  });

  test("/migration/precopy/file/offset/bad", async () => {
    writeFileSync(filePath(), MARKER);
    const { from, to } = await startPair({ incoming: "defer" });
    await ensureConverge(from);
    const uri = `file:${filePath()},offset=0x20M`;
    await expect(from.qmp("migrate", { uri })).rejects.toThrow(/offset/);
    expect(await from.queryMigrate()).toEqual({});
    expect(from.events).toEqual([]);
    expect(readFileSync(filePath(), "latin1")).toBe(MARKER);
    await expectRunsOn(from);
    expect(await to.runState()).toBe("inmigrate");
  });

  test("/migration/precopy/file/mapped-ram", async () => {
    await migrateByFile({ stopped: true, capabilities: ["mapped-ram"] });
    // Pages that are zero take no room.
    expect(statSync(filePath()).blocks * 512).toBeLessThan(MEMORY_BYTES / 2);
  });

  test("/migration/precopy/file/mapped-ram/live", async () => {
    await migrateByFile({ stopped: false, capabilities: ["mapped-ram"] });
  });

  // In QEMU with several channels: /migration/multifd/file/mapped-ram/fdset.
  test("/migration/precopy/file/mapped-ram/fdset", async () => {
    writeFileSync(filePath(), MARKER);
    await withDescriptors(async ([write, read]) => {
      await migrateByFile({
        stopped: true,
        capabilities: ["mapped-ram"],
        name: "/dev/fdset/1",
        offset: OFFSET,
        source: { args: ["-add-fd", "fd=3,set=1"], cli: { inherit: [write] } },
        target: { args: ["-add-fd", "fd=3,set=1"], cli: { inherit: [read] } },
      });
    });
    expectOffsetKept();
  });
});
