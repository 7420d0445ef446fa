/** QEMU's file-tests.c: into a file, and out of it again. */

import { closeSync, constants, openSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { hasDirectIo } from "../support/direct-io.js";
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
const MULTIFD = ["mapped-ram", "multifd"];
/** `migrate_hook_start_multifd_mapped_ram`: more than one, and more than the page areas of a machine. */
const CHANNELS = { "multifd-channels": 4 };

/** What a file scenario is. */
interface FileScenario {
  /** What the machines call the file; default its path. */
  readonly name?: string;
  readonly stopped: boolean;
  readonly capabilities?: readonly string[];
  /** For both machines. */
  readonly parameters?: Readonly<Record<string, unknown>>;
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
  for (const machine of [from, to]) await machine.qmp("migrate-set-parameters", scenario.parameters ?? {});
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

/** Descriptors of the file, for each machine its own, while they start. `flags`: more of open(2). */
async function withDescriptors(
  run: (descriptors: readonly [number, number]) => Promise<void>,
  flags = 0,
): Promise<void> {
  const { O_WRONLY, O_RDONLY } = constants;
  const descriptors = [
    openSync(filePath(), O_WRONLY | flags),
    openSync(filePath(), O_RDONLY | flags),
  ] as const;
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

  test("/migration/multifd/file/mapped-ram", async () => {
    await migrateByFile({ stopped: true, capabilities: MULTIFD, parameters: CHANNELS });
  });

  test("/migration/multifd/file/mapped-ram/live", async () => {
    await migrateByFile({ stopped: false, capabilities: MULTIFD, parameters: CHANNELS });
  });

  test.skipIf(!hasDirectIo())("/migration/multifd/file/mapped-ram/dio", async () => {
    await migrateByFile({
      stopped: true,
      capabilities: MULTIFD,
      parameters: { ...CHANNELS, "direct-io": true },
    });
  });

  test("/migration/multifd/file/mapped-ram/fdset", async () => {
    writeFileSync(filePath(), MARKER);
    await withDescriptors(async ([write, read]) => {
      await migrateByFile({
        stopped: true,
        capabilities: MULTIFD,
        parameters: CHANNELS,
        name: "/dev/fdset/1",
        offset: OFFSET,
        source: { args: ["-add-fd", "fd=3,set=1"], cli: { inherit: [write] } },
        target: { args: ["-add-fd", "fd=3,set=1"], cli: { inherit: [read] } },
      });
    });
    expectOffsetKept();
  });

  test.skipIf(!hasDirectIo())("/migration/multifd/file/mapped-ram/fdset/dio", async () => {
    writeFileSync(filePath(), MARKER);
    const args = ["-add-fd", "fd=3,set=1", "-add-fd", "fd=4,set=1"];
    const { O_DIRECT } = constants;
    await withDescriptors(async (buffered) => {
      await withDescriptors(async (direct) => {
        await migrateByFile({
          stopped: true,
          capabilities: MULTIFD,
          parameters: { ...CHANNELS, "direct-io": true },
          name: "/dev/fdset/1",
          offset: OFFSET,
          // The one with O_DIRECT first: it is for pages only all the same.
          source: { args, cli: { inherit: [direct[0], buffered[0]] } },
          target: { args, cli: { inherit: [direct[1], buffered[1]] } },
        });
      }, O_DIRECT);
    });
    expectOffsetKept();
  });

  // In QEMU with several channels.
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
