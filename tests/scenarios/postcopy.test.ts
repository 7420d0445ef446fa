/** QEMU's postcopy-tests.c: the guest runs at the destination while most of its memory is still at the source. */

import { connect, createServer, type Server, type Socket } from "node:net";
import { once } from "node:events";
import { describe, expect, onTestFinished, test } from "vitest";

import { waitForTransfer } from "../support/migrating-guest.js";
import { useWorkDir } from "../support/work-dir.js";
import {
  connectUri,
  endMachinesAfterEach,
  ensureNonConverge,
  expectGoesOn,
  lastPass,
  type MachinePair,
  migrate,
  migrateIncoming,
  type PairOptions,
  type ScenarioMachine,
  setParameters,
  SLEEPER,
  startPair,
  waitForDirtyMemory,
  waitForSuspend,
  wakeUp,
} from "./framework.js";

const workDir = useWorkDir();
endMachinesAfterEach();

const MIB = 1 << 20;
const PREEMPT = ["postcopy-preempt"];
/** What both sides go through, as seen of QEMU 11.1. */
const SOURCE = ["setup", "active", "device", "postcopy-device", "postcopy-active"];
const TARGET = ["setup", "active", "postcopy-device", "postcopy-active"];

/** `migrate_postcopy_prepare`: a migration that does not converge, in its second pass. */
async function preparePostcopy(capabilities: readonly string[] = []): Promise<MachinePair> {
  const pair = await startPostcopyPair(capabilities);
  await ensureNonConverge(pair.from);
  await migrateIncoming(pair.to, "tcp:127.0.0.1:0");
  await migrate(pair);
  await waitForDirtyMemory(pair);
  return pair;
}

function startPostcopyPair(
  capabilities: readonly string[],
  guest: Pick<PairOptions, "source" | "target"> = {},
): Promise<MachinePair> {
  return startPair({
    incoming: "defer",
    capabilities: ["postcopy-ram", "postcopy-blocktime", ...capabilities],
    ...guest,
  });
}

/** The same with a guest that sleeps: it changes nothing, so that there is only one pass. */
async function prepareAsleep(capabilities: readonly string[]): Promise<MachinePair> {
  const pair = await startPostcopyPair(capabilities, SLEEPER);
  const { from, to } = pair;
  // That pass takes four seconds and a half.
  await setParameters(from, { "max-bandwidth": MIB, "downtime-limit": 1 });
  await migrateIncoming(to, "tcp:127.0.0.1:0");
  await waitForSuspend(pair);
  await migrate(pair);
  await waitForTransfer(from.vm, MIB / 2);
  return pair;
}

/** `migrate_postcopy_start`: the source has stopped, and the destination runs. */
async function startPostcopy({ from, to }: MachinePair): Promise<void> {
  await from.qmp("migrate-start-postcopy");
  await from.waitForEvent("STOP");
  await to.waitForEvent("RESUME");
}

/** `migrate_postcopy_complete`, and that the guest is what it was and only at the destination. */
async function completePostcopy(pair: MachinePair, asleep = false): Promise<void> {
  const { from, to } = pair;
  const { ram = {}, ...answer } = await from.waitForComplete();
  const blocktime = await to.waitForComplete();
  if (asleep) await wakeUp(pair);
  await expectGoesOn(pair);
  expect(Object.keys(answer).sort()).toEqual(["downtime", "setup-time", "status", "total-time"]);
  expect(ram.remaining).toBe(0);
  expect(ram["postcopy-bytes"]).toBeGreaterThan(0);
  expect(ram["precopy-bytes"]).toBeGreaterThan(0);
  expect(ram.transferred).toBe(ram["precopy-bytes"]! + ram["downtime-bytes"]! + ram["postcopy-bytes"]!);
  // `read_blocktime`
  expect(blocktime["postcopy-blocktime"]).toBeGreaterThanOrEqual(0);
  expect(blocktime["postcopy-vcpu-blocktime"]).toHaveLength(1);
  await expect(from.qmp("migrate-pause")).rejects.toThrow(/postcopy-active/);
}

/** How often a machine's migration was paused. */
function pauses({ statuses }: ScenarioMachine): number {
  return statuses.filter((status) => status === "postcopy-paused").length;
}

async function waitForPaused(machine: ScenarioMachine, times = 1): Promise<void> {
  await machine.waitUntil("a pause", () => pauses(machine) >= times);
  expect((await machine.queryMigrate()).status).toBe("postcopy-paused");
}

/** What a source does not do any more when its guest has left. */
async function expectGuestGone({ from }: MachinePair): Promise<void> {
  expect(await from.runState()).toBe("finish-migrate");
  await expect(from.qmp("cont")).rejects.toThrow(/migration/);
  await expect(from.qmp("migrate_cancel")).rejects.toThrow(/cannot be cancelled/);
}

/**
 * `test_postcopy_recovery_common`, up to where the source is paused.
 *
 * @param stopped Stops the guest at the destination before: its monitor then surely answers. A guest that waits for a page
 *   keeps the thread in which both are.
 */
async function pausePostcopy(capabilities: readonly string[], stopped: boolean): Promise<MachinePair> {
  const pair = await preparePostcopy(capabilities);
  const { from, to } = pair;
  await setParameters(from, { "max-postcopy-bandwidth": 4096 });
  await startPostcopy(pair);
  await from.waitForStatus("postcopy-active");
  if (stopped) await to.qmp("stop");
  await from.qmp("migrate-pause");
  await waitForPaused(from);
  await expectGuestGone(pair);
  if (stopped) await waitForPaused(to);
  return pair;
}

/** The rest of it: a new connection, and full speed. */
async function recoverPostcopy(pair: MachinePair, asleep = false): Promise<void> {
  const { from, to } = pair;
  const uri = `unix:${workDir.file("migsocket-recover")}`;
  await to.qmp("migrate-recover", { uri });
  await resumePostcopy(from, uri);
  if ((await to.runState()) === "paused") await to.qmp("cont");
  await completePostcopy(pair, asleep);
}

async function resumePostcopy(from: ScenarioMachine, uri: string): Promise<void> {
  await from.qmp("migrate", { uri, resume: true });
  await setParameters(from, { "max-postcopy-bandwidth": 0 });
}

/** Where the source can come back to, if the guest's thread waits for a page; undefined when its monitor answers. */
async function whereGuestWaits({ to }: MachinePair): Promise<string | undefined> {
  const address = (): string | undefined =>
    /source can resume at (?<uri>\S+)/.exec(to.vm.stderr)?.groups?.uri;
  await expect.poll(() => address() !== undefined || pauses(to) > 0).toBe(true);
  return address();
}

/** What the events told: each recovery that was tried, and how far each side came with it. */
function expectStatuses({ from, to }: MachinePair, tries: { source: string[][]; target: string[][] }): void {
  const again = (middle: readonly string[]): string[] => ["postcopy-paused", ...middle];
  const end = ["postcopy-active", "completed"];
  expect(from.statuses).toEqual([...SOURCE, ...tries.source.flatMap(again), ...end]);
  expect(to.statuses).toEqual([...TARGET, ...tries.target.flatMap(again), ...end]);
}

const FULL_SOURCE = ["postcopy-recover-setup", "postcopy-recover"];
const FULL_TARGET = ["postcopy-recover"];

/** Somebody who takes connections and says nothing: `postcopy_recover_fail`. */
async function listenInVain(path: string): Promise<{ readonly server: Server; readonly sockets: Socket[] }> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket.on("error", () => undefined))).listen(path);
  await once(server, "listening");
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { server, sockets };
}

/** Brings a paused destination into a recovery in which nothing more is said than its first byte. */
async function recoverInVain({ to }: MachinePair): Promise<Socket> {
  const path = workDir.file("migsocket-wrong");
  await to.qmp("migrate-recover", { uri: `unix:${path}` });
  const socket = connect(path).on("error", () => undefined);
  onTestFinished(() => {
    socket.destroy();
  });
  // QEMU_VM_COMMAND
  socket.write(Uint8Array.of(8));
  await to.waitForStatus("postcopy-recover");
  return socket;
}

describe("/migration/postcopy", () => {
  test.each([
    ["/migration/postcopy/plain", []],
    ["/migration/postcopy/preempt/plain", PREEMPT],
  ])("%s", async (_, capabilities) => {
    const pair = await preparePostcopy(capabilities);
    await startPostcopy(pair);
    await completePostcopy(pair);
    expect(pair.from.statuses).toEqual([...SOURCE, "completed"]);
    expect(pair.to.statuses).toEqual([...TARGET, "completed"]);
  });

  test.each([
    ["/migration/postcopy/suspend", []],
    ["/migration/postcopy/suspend, with postcopy-preempt", PREEMPT],
  ])("%s", async (_, capabilities) => {
    const pair = await prepareAsleep(capabilities);
    const { from, to } = pair;
    await startPostcopy(pair);
    expect(await to.runState()).toBe("suspended");
    await expect(from.qmp("system_wakeup")).rejects.toThrow(/not in suspended state/);
    await completePostcopy(pair, true);
    expect(to.events.filter((text) => !text.startsWith("MIGRATION"))).toEqual(["RESUME", "WAKEUP"]);
    expect(from.statuses).toEqual([...SOURCE, "completed"]);
    expect(to.statuses).toEqual([...TARGET, "completed"]);
  });

  // Its memory is needed for that: where it is to be woken, and what it does then.
  test("/migration/postcopy/suspend, woken while most of its memory is at the source", async () => {
    const pair = await prepareAsleep([]);
    const { from, to } = pair;
    await setParameters(from, { "max-postcopy-bandwidth": MIB });
    await startPostcopy(pair);
    expect((await to.queryMigrate()).status).toBe("postcopy-active");
    await wakeUp(pair);
    await to.vm.waitForPass(lastPass(from).pass + 1);
    await setParameters(from, { "max-postcopy-bandwidth": 0 });
    await completePostcopy(pair);
    expect((await from.queryMigrate()).ram?.["postcopy-requests"]).toBeGreaterThan(0);
  });

  // It asks for no page: the monitor surely answers.
  test("/migration/postcopy/recovery/plain, with a guest that sleeps", async () => {
    const pair = await prepareAsleep([]);
    const { from, to } = pair;
    await setParameters(from, { "max-postcopy-bandwidth": 4096 });
    await startPostcopy(pair);
    await from.waitForStatus("postcopy-active");
    await from.qmp("migrate-pause");
    await waitForPaused(from);
    await waitForPaused(to);
    // What it does first may need a page that cannot come now.
    await expect(to.qmp("system_wakeup")).rejects.toThrow(/while its memory cannot come/);
    await recoverPostcopy(pair, true);
    expectStatuses(pair, { source: [FULL_SOURCE], target: [FULL_TARGET] });
  });

  // The guest goes on asking for pages: mostly it waits for one when the connection breaks.
  test.each([
    ["/migration/postcopy/recovery/plain", []],
    ["/migration/postcopy/preempt/recovery/plain", PREEMPT],
  ])("%s", async (_, capabilities) => {
    const pair = await pausePostcopy(capabilities, false);
    const address = await whereGuestWaits(pair);
    if (address === undefined) await recoverPostcopy(pair);
    else {
      await resumePostcopy(pair.from, address);
      await completePostcopy(pair);
    }
    expectStatuses(pair, { source: [FULL_SOURCE], target: [FULL_TARGET] });
  });

  test("/migration/postcopy/preempt/recovery/plain, with the guest stopped", async () => {
    const pair = await pausePostcopy(PREEMPT, true);
    await recoverPostcopy(pair);
    expectStatuses(pair, { source: [FULL_SOURCE], target: [FULL_TARGET] });
  });

  test("/migration/postcopy/recovery/double-failures/handshake", async () => {
    const pair = await pausePostcopy([], true);
    const { from, to } = pair;
    await recoverInVain(pair);
    const path = workDir.file("migsocket-silent");
    await listenInVain(path);
    await from.qmp("migrate", { uri: `unix:${path}`, resume: true });
    await from.waitForStatus("postcopy-recover");
    await from.qmp("migrate-pause");
    await waitForPaused(from, 2);
    expect((await to.queryMigrate()).status).toBe("postcopy-recover");
    await to.qmp("migrate-pause");
    await waitForPaused(to, 2);
    await recoverPostcopy(pair);
    expectStatuses(pair, { source: [FULL_SOURCE, FULL_SOURCE], target: [FULL_TARGET, FULL_TARGET] });
  });

  test("/migration/postcopy/recovery/double-failures/reconnect", async () => {
    const pair = await pausePostcopy([], true);
    const { from, to } = pair;
    await recoverInVain(pair);
    await from.qmp("migrate", { uri: `unix:${workDir.file("nobody")}`, resume: true });
    await waitForPaused(from, 2);
    expect((await from.queryMigrate())["error-desc"]).toMatch(/nobody/);
    expect((await to.queryMigrate()).status).toBe("postcopy-recover");
    await to.qmp("migrate-pause");
    await waitForPaused(to, 2);
    await recoverPostcopy(pair);
    expectStatuses(pair, {
      source: [["postcopy-recover-setup"], FULL_SOURCE],
      target: [FULL_TARGET, FULL_TARGET],
    });
  });
});

/** `migration_test_add_suffix("/migration/cancel/src/after/", ...)`: QEMU leaves these out, because they are refused. */
describe("/migration/cancel/src/after", () => {
  test("postcopy-active, as it is refused", async () => {
    const pair = await preparePostcopy();
    const { from } = pair;
    await setParameters(from, { "max-postcopy-bandwidth": 4096 });
    await startPostcopy(pair);
    await from.waitForStatus("postcopy-active");
    await expect(from.qmp("migrate_cancel")).rejects.toThrow(/cannot be cancelled/);
    await expect(from.qmp("cont")).rejects.toThrow(/migration/);
    expect(await from.runState()).toBe("finish-migrate");
    expect(await connectUri(pair)).toMatch(/^tcp:/);
    await setParameters(from, { "max-postcopy-bandwidth": 0 });
    await completePostcopy(pair);
  });
});
