/**
 * A real QEMU that goes over to postcopy while its guest rewrites memory, into the engine; and what has to hold at its end.
 *
 * @module
 */

import { expect, onTestFinished } from "vitest";

import { differenceOf, memoryRanges, readGuestMemory } from "../conformance/matrix/guest-memory.js";
import { guestMachine, migrationEnd, setCapabilities, statusOf } from "./migrating-guest.js";
import {
  beginPostcopyLoad,
  type PostcopyLoad,
  SourceConnections,
  touchAtRandom,
  toyHostFor,
} from "./postcopy-from-qemu.js";
import type { PostcopyToyHost } from "./postcopy-host.js";
import { type QemuMachine, startQemu, type StartQemuOptions } from "./qemu.js";
import { Random } from "./random.js";
import type { WorkDir } from "./work-dir.js";

const MIB = 1 << 20;

/** How QEMU goes over to postcopy. */
export interface PostcopyFromQemu {
  readonly preempt: boolean;
  /** The connection is to be broken: most of memory must not have come by then. */
  readonly breaks?: boolean;
  readonly machine?: Partial<StartQemuOptions>;
}

/** Both sides, in the middle of postcopy. */
export interface StartedPostcopy {
  readonly source: QemuMachine;
  readonly host: PostcopyToyHost;
  readonly connections: SourceConnections;
  readonly load: PostcopyLoad;
}

/** A source that has gone over to postcopy, with the guest running here. */
export async function startPostcopy(
  workDir: WorkDir,
  version: StartQemuOptions["version"],
  scenario: PostcopyFromQemu,
): Promise<StartedPostcopy> {
  const { preempt, breaks = false } = scenario;
  const source = await startQemu(guestMachine(workDir.path, { version, ...scenario.machine }));
  await source.waitForPass(2);
  await setCapabilities(source, "events", "postcopy-ram", ...(preempt ? ["postcopy-preempt"] : []));
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

/** Both sides are done, and have the same memory. How many touches find their page missing depends on how quick the source is. */
export async function expectSameMemory(
  workDir: WorkDir,
  { source, host, load }: StartedPostcopy,
  atLeast = { requests: 5, pages: 1000 },
): Promise<void> {
  const result = await load.ended;
  expect(await migrationEnd(source)).toBe("completed");
  await expect.poll(() => statusOf(source)).toBe("postmigrate");
  const { postcopy } = result;
  expect(postcopy?.requests).toBeGreaterThanOrEqual(atLeast.requests);
  expect(postcopy?.blocktime.allBlockedMs).toBeGreaterThan(0);
  expect(postcopy?.pages.normal).toBeGreaterThanOrEqual(atLeast.pages);
  await expectMemoryOf(source, host, workDir);
  expect(host.devices.length).toBeGreaterThan(5);
  expect(load.states.at(-1)?.status).toBe("completed");
}

/** A host has, byte for byte, the memory that a stopped QEMU has. */
export async function expectMemoryOf(
  source: QemuMachine,
  host: PostcopyToyHost,
  workDir: WorkDir,
): Promise<void> {
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
}
