/** QEMU's precopy-tests.c and compression-tests.c: from one machine straight into the other. */

import { closeSync, openSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { once } from "node:events";
import { describe, expect, test } from "vitest";

import { waitForTransfer } from "../support/migrating-guest.js";
import { useWorkDir } from "../support/work-dir.js";
import {
  connectUri,
  endMachinesAfterEach,
  ensureConverge,
  ensureNonConverge,
  expectCompleted,
  expectGoesOn,
  expectLoaded,
  expectRunsOn,
  expectTargetFailed,
  lastPass,
  type MachinePair,
  migrate,
  migrateIncoming,
  type MigrationAnswer,
  setCapabilities,
  setParameters,
  SLEEPER,
  startMachine,
  startPair,
  stopSource,
  waitForDirtyMemory,
  waitForSuspend,
  wakeUp,
} from "./framework.js";

const workDir = useWorkDir();
endMachinesAfterEach();

const socketUri = (): string => `unix:${workDir.file("migsocket")}`;

/** A migration that does not end until it is let: over several passes, with the guest running. */
async function migrateLive(
  pair: MachinePair,
  options: {
    readonly uri?: string;
    readonly migrationPass?: number;
    readonly alsoKeys?: readonly string[];
  } = {},
): Promise<MigrationAnswer> {
  const { from, to } = pair;
  const { uri, migrationPass = 2, alsoKeys = [] } = options;
  await ensureNonConverge(from);
  await migrate(pair, uri);
  await waitForDirtyMemory(pair, migrationPass);
  await ensureConverge(from);
  const answer = await expectCompleted(pair, { live: true, leastSyncCount: migrationPass + 1, alsoKeys });
  await expectLoaded(pair, { resumed: true, deferred: to.statuses.includes("setup") });
  await expectGoesOn(pair);
  return answer;
}

/** A guest that stands still travels at full speed, and starts at the destination when it is told to. */
async function migrateStopped(pair: MachinePair, uri?: string): Promise<void> {
  const { from, to } = pair;
  await stopSource(pair);
  await ensureConverge(from);
  await migrate(pair, uri);
  await expectCompleted(pair, { live: false });
  await expectLoaded(pair, { resumed: false, deferred: to.statuses.includes("setup") });
  await to.qmp("cont");
  await to.waitForEvent("RESUME");
  await expectGoesOn(pair);
}

describe("/migration/precopy", () => {
  test("/migration/precopy/unix/plain", async () => {
    const pair = await startPair({ incoming: socketUri() });
    await migrateLive(pair);
  });

  test("/migration/precopy/unix/suspend/live", async () => {
    const pair = await startPair({ incoming: socketUri(), ...SLEEPER });
    const { from } = pair;
    await waitForSuspend(pair);
    await ensureNonConverge(from);
    await migrate(pair);
    await waitForTransfer(from.vm, 1 << 19);
    await ensureConverge(from);
    await expectCompleted(pair, { live: true });
    await expectLoaded(pair, { resumed: true, deferred: false, asleep: true });
    await wakeUp(pair);
    await expectGoesOn(pair);
  });

  test("/migration/precopy/unix/suspend/notlive", async () => {
    const pair = await startPair({ incoming: socketUri(), ...SLEEPER });
    const { from, to } = pair;
    await waitForSuspend(pair);
    await stopSource(pair);
    await ensureConverge(from);
    await migrate(pair);
    await expectCompleted(pair, { live: false });
    await expectLoaded(pair, { resumed: false, deferred: false });
    await to.qmp("cont");
    await to.waitForEvent("RESUME");
    await wakeUp(pair);
    await expectGoesOn(pair);
  });

  test("/migration/precopy/tcp/plain", async () => {
    const pair = await startPair({ incoming: "tcp:127.0.0.1:0" });
    expect(await connectUri(pair)).toMatch(/^tcp:127\.0\.0\.1:[1-9]\d*$/);
    await migrateStopped(pair);
  });

  test("/migration/precopy/tcp/plain, with return-path", async () => {
    const pair = await startPair({ incoming: "tcp:127.0.0.1:0", capabilities: ["return-path"] });
    await migrateLive(pair);
  });

  // In QEMU with several channels: /migration/multifd/tcp/channels/plain/none.
  test("/migration/precopy/tcp/channels/plain", async () => {
    const pair = await startPair({ incoming: "defer" });
    const channels = (port: string): object[] => [
      {
        "channel-type": "main",
        addr: { transport: "socket", type: "inet", host: "127.0.0.1", port },
      },
    ];
    await pair.to.qmp("migrate-incoming", { channels: channels("0") });
    await pair.to.waitForStatus("setup");
    const port = (await connectUri(pair)).replace(/^.*:/, "");
    await ensureNonConverge(pair.from);
    await pair.from.qmp("migrate", { channels: channels(port) });
    await waitForDirtyMemory(pair);
    await ensureConverge(pair.from);
    await expectCompleted(pair, { live: true, leastSyncCount: 3 });
    await expectLoaded(pair, { resumed: true, deferred: true });
    await expectGoesOn(pair);
  });

  test("/migration/precopy/fd/tcp", async () => {
    const [one, other] = await connectedSockets();
    const pair = await startPair({
      incoming: "defer",
      source: { cli: { inherit: [one] } },
      target: { cli: { inherit: [other] } },
    });
    // Each end belongs to one process alone: the other side sees when it is gone.
    one.destroy();
    other.destroy();
    await migrateIncoming(pair.to, "fd:3");
    await migrateStopped(pair, "fd:3");
  });

  test("/migration/precopy/fd/file", async () => {
    const path = workDir.file("migfile");
    const descriptors = [openSync(path, "w+"), openSync(path, "r+")] as const;
    const pair = await startPair({
      incoming: "defer",
      source: { cli: { inherit: [descriptors[0]] } },
      target: { cli: { inherit: [descriptors[1]] } },
    }).finally(() => descriptors.forEach((fd) => closeSync(fd)));
    const { from, to } = pair;
    await ensureConverge(from);
    await stopSource(pair);
    await migrate(pair, "fd:3");
    await expectCompleted(pair, { live: false });
    await migrateIncoming(to, "fd:3");
    await expectLoaded(pair, { resumed: false, deferred: true });
    await to.qmp("cont");
    await to.waitForEvent("RESUME");
    await expectGoesOn(pair);
  });

  test("/migration/precopy/unix/xbzrle", async () => {
    const pair = await startPair({ incoming: socketUri(), capabilities: ["xbzrle"] });
    await setParameters(pair.from, { "xbzrle-cache-size": 33_554_432 });
    const answer = await migrateLive(pair, { migrationPass: 3, alsoKeys: ["xbzrle-cache"] });
    const cache = answer["xbzrle-cache"] as Readonly<Record<string, number>>;
    expect(Object.keys(cache).sort()).toEqual(
      ["bytes", "cache-miss", "cache-miss-rate", "cache-size", "encoding-rate", "overflow", "pages"].sort(),
    );
    expect(cache["cache-size"]).toBe(33_554_432);
    // Most of this guest's pages change as a whole, and are too different; its few words of state are not.
    expect(cache.pages).toBeGreaterThan(0);
    expect(cache.overflow).toBeGreaterThan(0);
    expect(cache.bytes).toBeGreaterThan(0);
  });
});

describe("cancelling", () => {
  // In QEMU with several channels: /migration/multifd/tcp/plain/cancel.
  test("/migration/precopy/tcp/plain/cancel", async () => {
    const pair = await startPair({ incoming: "defer" });
    const { from } = pair;
    await ensureNonConverge(from);
    await migrateIncoming(pair.to, "tcp:127.0.0.1:0");
    await migrate(pair);
    await waitForDirtyMemory(pair);
    await from.qmp("migrate_cancel");
    await expectTargetFailed(pair, /\S/);
    await from.waitForStatus("cancelled", ["completed", "failed"]);
    expect(await from.queryMigrate()).toEqual({ status: "cancelled" });
    expect(from.events).not.toContain("STOP");
    await expectRunsOn(from);

    const again = { from, to: await startMachine({ incoming: "defer" }) };
    await migrateIncoming(again.to, "tcp:127.0.0.1:0");
    const seen = from.migrationPasses.length;
    await ensureNonConverge(from);
    await migrate(again);
    await from.waitUntil("two more passes", () => from.migrationPasses.length >= seen + 2);
    await ensureConverge(from);
    await expectCompleted(again, { live: true });
    await expectLoaded(again, { resumed: true, deferred: true });
    await expectGoesOn(again);
  });

  test("/migration/cancel/src/after/none", async () => {
    const pair = await startPair({ incoming: "defer" });
    await pair.to.qmp("migrate_cancel");
    await pair.from.qmp("migrate_cancel");
    expect(await pair.from.queryMigrate()).toEqual({});
    await migrateIncoming(pair.to, socketUri(), { "exit-on-error": false });
    await ensureConverge(pair.from);
    await migrate(pair);
    await expectCompleted(pair, { live: true });
    await expectLoaded(pair, { resumed: true, deferred: true });
    await expectGoesOn(pair);
  });

  test.each(["failing", "failed"])("/migration/cancel/src/after/%s", async (phase) => {
    const pair = await startPair({ incoming: "defer" });
    const { from, to } = pair;
    await ensureConverge(from);
    await migrate(pair, socketUri());
    await from.waitForStatus(phase, ["completed", "cancelled"]);
    await from.qmp("migrate_cancel");
    await from.waitForStatus("failed", ["completed", "cancelled"]);
    expect(from.statuses).toEqual(["setup", "failing", "failed"]);
    const reason = expect.stringContaining(workDir.file("migsocket")) as string;
    expect(await from.queryMigrate()).toEqual({ status: "failed", "error-desc": reason });
    await expectRunsOn(from);
    expect(await to.runState()).toBe("inmigrate");
  });

  test.each(["cancelling", "cancelled"])("/migration/cancel/src/after/%s", async (phase) => {
    const pair = await startPair({ incoming: "defer" });
    const { from, to } = pair;
    await migrateIncoming(to, socketUri(), { "exit-on-error": false });
    // QEMU's test lets it converge, and is faster than the migration. Here it cannot be over too soon.
    await ensureNonConverge(from);
    await migrate(pair);
    await from.qmp("migrate_cancel");
    await from.waitForStatus(phase, ["completed", "failed"]);
    await from.qmp("migrate_cancel");
    await expectCancelled(pair);
    expect(from.events).not.toContain("STOP");
  });

  test.each(["setup", "active", "pre-switchover"])("/migration/cancel/src/after/%s", async (phase) => {
    const pair = await startPair({ incoming: "defer", capabilities: ["pause-before-switchover"] });
    const { from, to } = pair;
    await migrateIncoming(to, socketUri(), { "exit-on-error": false });
    await ensureConverge(from);
    await migrate(pair);
    await from.waitForStatus(phase);
    await from.qmp("migrate_cancel");
    await from.waitForStatus("cancelling", ["completed", "failed"]);
    await expectCancelled(pair);
    if (phase !== "pre-switchover") return;
    expect(from.events).toEqual([
      ...["MIGRATION setup", "MIGRATION active", "STOP", "MIGRATION pre-switchover"],
      ...["MIGRATION cancelling", "RESUME", "MIGRATION cancelled"],
    ]);
  });

  test("/migration/cancel/src/after/completed", async () => {
    const pair = await startPair({ incoming: "defer" });
    await migrateIncoming(pair.to, socketUri(), { "exit-on-error": false });
    await ensureConverge(pair.from);
    await migrate(pair);
    await pair.from.waitForStatus("completed", ["failed", "cancelled"]);
    await pair.from.qmp("migrate_cancel");
    await expectCompleted(pair, { live: true });
    await expectLoaded(pair, { resumed: true, deferred: true });
    await expectGoesOn(pair);
  });
});

test("/migration/auto_converge", async () => {
  const pair = await startPair({ incoming: socketUri() });
  const { from } = pair;
  await setCapabilities(from, "auto-converge", "pause-before-switchover");
  await setParameters(from, {
    "cpu-throttle-initial": 5,
    "cpu-throttle-increment": 25,
    "max-cpu-throttle": 95,
  });
  await ensureNonConverge(from);
  await migrate(pair);
  const throttle = async (): Promise<number> =>
    ((await from.queryMigrate()) as { "cpu-throttle-percentage"?: number })["cpu-throttle-percentage"] ?? 0;

  // It is decided at each pass, whether there is one and how strong it is.
  const steps: number[] = [];
  while (steps.length < 2) {
    const pass = from.migrationPasses.length;
    await from.waitUntil("another pass", () => from.migrationPasses.length > pass);
    expect(from.events).not.toContain("STOP");
    const percentage = await throttle();
    if (percentage !== (steps.at(-1) ?? 0)) steps.push(percentage);
  }
  expect(steps).toEqual([5, 30]);
  expect(await from.runState()).toBe("running");
  const pass = from.migrationPasses.at(-1) ?? 0;
  expect(pass).toBeGreaterThanOrEqual(2);
  await from.waitUntil("another pass", () => (from.migrationPasses.at(-1) ?? 0) > pass);

  await ensureConverge(from);
  await from.waitForStatus("pre-switchover");
  expect(await throttle()).toBeGreaterThanOrEqual(30);
  expect(await throttle()).toBeLessThanOrEqual(95);
  expect(await from.runState()).toBe("finish-migrate");
  await from.qmp("migrate-continue", { state: "pre-switchover" });
  await pair.to.waitForEvent("RESUME");
  await expectCompleted(pair, { live: true, paused: true, leastSyncCount: 4 });
  await expectLoaded(pair, { resumed: true, deferred: false });
  await expectGoesOn(pair);
});

/** Neither side has the migration any more, and the guest never left. */
async function expectCancelled({ from, to }: MachinePair): Promise<void> {
  await from.waitForStatus("cancelled", ["completed", "failed"]);
  expect(await from.queryMigrate()).toEqual({ status: "cancelled" });
  expect(from.statuses.filter((status) => status === "cancelling")).toHaveLength(1);
  await to.waitForStatus("failed", ["completed"]);
  expect(to.events).toEqual([
    "MIGRATION setup",
    // It is gone before the destination has heard of it, where it was cancelled at once.
    ...(to.statuses.includes("active") ? ["MIGRATION active"] : []),
    "MIGRATION failed",
  ]);
  expect(await to.queryMigrate()).toMatchObject({
    status: "failed",
    "error-desc": expect.any(String) as string,
  });
  expect(await to.runState()).toBe("inmigrate");
  expect(to.vm.serial.text).toBe("");
  await expectRunsOn(from);
  expect(lastPass(from).pass).toBeGreaterThan(0);
}

/** Two ends of one TCP connection. */
async function connectedSockets(): Promise<readonly [Socket, Socket]> {
  const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const accepted = once(server, "connection") as Promise<[Socket]>;
  const one = connect((server.address() as AddressInfo).port, "127.0.0.1");
  await once(one, "connect");
  const [other] = await accepted;
  server.close();
  return [one, other];
}
