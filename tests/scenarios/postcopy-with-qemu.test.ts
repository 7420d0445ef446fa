/** QEMU's postcopy-tests.c with a real QEMU at one end: as the source of the engine's destination, and the other way round. */

import { createServer } from "node:net";
import { once } from "node:events";
import { describe, expect, onTestFinished, test } from "vitest";

import { buildBootSector } from "../../guests/boot-sector.js";
import { connectSocket } from "../../src/channels/index.js";
import {
  type LazyLoadResult,
  type PostcopyChannels,
  type PostcopyConnection,
  resumeLazyLoad,
} from "../../src/engine/index.js";
import { VirtualMachine } from "../../src/vm/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { LazyDestination, load, type Saved, saved, SLOW_FILL } from "../support/lazy-load.js";
import {
  expectGoesOn,
  GUEST_MEMORY_BYTES,
  guestMachine,
  guestState,
  migrationEnd,
  migrationOf,
  setCapabilities,
  SLEEP_PASS,
  SLEEPING_WORKLOAD,
  statusOf,
  waitForTransfer,
} from "../support/migrating-guest.js";
import { toyHostFor } from "../support/postcopy-from-qemu.js";
import type { PostcopyToyHost } from "../support/postcopy-host.js";
import {
  expectMemoryOf,
  expectSameMemory,
  startPostcopy,
  type StartedPostcopy,
} from "../support/qemu-goes-postcopy.js";
import { type QemuMachine, type QemuVersion, startQemu } from "../support/qemu.js";
import { socketPair } from "../support/socket-pair.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

const MIB = 1 << 20;
const SLEEPER = { guestImage: buildBootSector(SLEEPING_WORKLOAD) };
/**
 * QEMU_VM_COMMAND, a command, and half of its length. QEMU's test sends the first byte; on a socket QEMU 11.1 waits for four
 * before it takes the connection, to see what it is.
 */
const FIRST_BYTES = Uint8Array.of(8, 0, 1, 0);

async function isAsleep(machine: QemuMachine): Promise<void> {
  await expect.poll(() => statusOf(machine)).toBe("suspended");
}

/** What a QEMU with `events` on said of its migration, from its first status on. */
function statusesOf({ events }: QemuMachine): string[] {
  return events
    .filter(({ event }) => event === "MIGRATION")
    .map(({ data }) => (data as { readonly status: string }).status);
}

async function waitForStatus(machine: QemuMachine, status: string, times = 1): Promise<void> {
  await expect
    .poll(() => statusesOf(machine).filter((one) => one === status).length)
    .toBeGreaterThanOrEqual(times);
}

/**
 * Somebody who takes connections and says nothing.
 *
 * @returns Resolves when somebody has said something to it.
 */
async function listenInVain(path: string): Promise<() => Promise<void>> {
  let hear = (): void => undefined;
  const heard = new Promise<void>((resolve) => (hear = resolve));
  const server = createServer((socket) => {
    socket.once("data", hear);
    socket.on("error", () => undefined);
    onTestFinished(() => {
      socket.destroy();
    });
  }).listen(path);
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
  });
  return () => heard;
}

/** `test_postcopy_recovery_common`, up to where both sides are paused. */
async function pausedFromQemu(preempt: boolean): Promise<StartedPostcopy> {
  const started = await startPostcopy(workDir, "11.1", { preempt, breaks: true });
  const { source, load: loading } = started;
  await waitForStatus(source, "postcopy-active");
  await source.qmp("migrate-pause");
  await loading.entered("postcopy-paused");
  await waitForStatus(source, "postcopy-paused");
  return started;
}

/** The rest of it: a new connection, full speed, and the same memory on both sides. */
async function recoverFromQemu(started: StartedPostcopy): Promise<void> {
  const { source, connections, load: loading } = started;
  const listening = await loading.running;
  const next = connections.next();
  await source.qmp("migrate", { uri: `unix:${workDir.file("socket")}`, resume: true });
  await listening.recover(await next);
  await source.qmp("migrate-set-parameters", { "max-postcopy-bandwidth": 0 });
  // At full speed the rest is there before the guest has asked for much of it; while all was paused it waited for a page at least.
  await expectSameMemory(workDir, started, { requests: 1, pages: 1000 });
}

/** Brings our paused side into a recovery in which nothing more is said than its first bytes, until it is paused again. */
async function recoverInVain(
  { load: loading }: StartedPostcopy,
  meanwhile: () => Promise<void>,
): Promise<void> {
  const listening = await loading.running;
  const { near, far } = await socketPair(workDir.file("migsocket-wrong"));
  const connection: PostcopyConnection = { main: near, returnPath: near };
  const recovery = listening.recover(connection);
  recovery.catch(() => undefined);
  await far.write(FIRST_BYTES);
  await loading.entered("postcopy-recover");
  await meanwhile();
  expect(loading.states.at(-1)?.status).toBe("postcopy-recover");
  listening.pause();
  await expect(recovery).rejects.toThrow();
  await loading.entered("postcopy-paused", 2);
}

const BEFORE_PAUSE = ["setup", "active", "device", "postcopy-device", "postcopy-active", "postcopy-paused"];
const AFTER_PAUSE = ["postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"];

describeWithQemu("11.1", "/migration/postcopy, from QEMU to the engine", () => {
  test.each([
    ["/migration/postcopy/recovery/plain", false],
    ["/migration/postcopy/preempt/recovery/plain", true],
  ])("%s", async (_, preempt) => {
    const started = await pausedFromQemu(preempt);
    await recoverFromQemu(started);
    expect(statusesOf(started.source)).toEqual([...BEFORE_PAUSE, ...AFTER_PAUSE]);
    expect(started.load.states.map(({ status }) => status)).toEqual([
      ...["postcopy-active", "postcopy-paused", "postcopy-recover", "postcopy-active", "completed"],
    ]);
  });

  test("/migration/postcopy/recovery/double-failures/handshake", async () => {
    const started = await pausedFromQemu(false);
    const { source } = started;
    const path = workDir.file("migsocket-silent");
    await listenInVain(path);
    await recoverInVain(started, async () => {
      await source.qmp("migrate", { uri: `unix:${path}`, resume: true });
      await waitForStatus(source, "postcopy-recover");
      await source.qmp("migrate-pause");
      await waitForStatus(source, "postcopy-paused", 2);
    });
    await recoverFromQemu(started);
    const again = ["postcopy-recover-setup", "postcopy-recover", "postcopy-paused"];
    expect(statusesOf(source)).toEqual([...BEFORE_PAUSE, ...again, ...AFTER_PAUSE]);
  });

  test("/migration/postcopy/recovery/double-failures/reconnect", async () => {
    const started = await pausedFromQemu(false);
    const { source } = started;
    await recoverInVain(started, async () => {
      await source
        .qmp("migrate", { uri: `unix:${workDir.file("nobody")}`, resume: true })
        .catch(() => undefined);
      await waitForStatus(source, "postcopy-paused", 2);
    });
    await recoverFromQemu(started);
    expect(statusesOf(source)).toEqual([
      ...[...BEFORE_PAUSE, "postcopy-recover-setup", "postcopy-paused"],
      ...AFTER_PAUSE,
    ]);
  });
});

describe.each(["10.0", "11.1"] as const)("from QEMU %s to the engine", (version) => {
  describeWithQemu(version, "/migration/postcopy", () => {
    test.each([
      ["/migration/postcopy/plain", false],
      ["/migration/postcopy/preempt/plain", true],
    ])("%s", async (_, preempt) => {
      const started = await startPostcopy(workDir, version, { preempt });
      await expectSameMemory(workDir, started);
      const { wasRunning, wasSuspended } = await started.load.ended;
      expect({ wasRunning, wasSuspended }).toEqual({ wasRunning: true, wasSuspended: false });
      expect(started.load.states.map(({ status }) => status)).toEqual(["postcopy-active", "completed"]);
    });

    // Its guest can only be woken among QEMU's devices: it goes on to a QEMU, with what came by postcopy.
    test("/migration/postcopy/suspend", async () => {
      const { source, host, machine, events } = await startAsleep(version);
      await machine.incoming({ uri: `unix:${workDir.file("socket")}` }, false);
      await source.qmp("migrate", { uri: `unix:${workDir.file("socket")}` });
      await waitForTransfer(source, MIB);
      await source.qmp("migrate-start-postcopy");
      expect(await migrationEnd(source)).toBe("completed");
      const { ram } = (await source.qmp("query-migrate")) as { ram: Record<string, number> };
      expect(ram["postcopy-bytes"]).toBeGreaterThan(MIB);
      await expect.poll(() => machine.migration.info().status).toBe("completed");
      expect([machine.runState, host.running, host.suspended]).toEqual(["suspended", true, true]);
      expect(events).toEqual([
        ...["setup", "active", "postcopy-device", "postcopy-active"],
        ...["RESUME", "completed"],
      ]);
      expect(() => machine.wakeUp()).toThrow("wake-up from suspend is not supported by this guest");
      expect(machine.runState).toBe("suspended");
      await expectMemoryOf(source, host, workDir);

      machine.migration.setCapabilities({ "postcopy-ram": false });
      const next = await startQemu(guestMachine(workDir.path, { version, incoming: "defer", ...SLEEPER }));
      await next.qmp("migrate-incoming", { uri: `unix:${workDir.file("next")}` });
      await machine.migration.migrate({ uri: `unix:${workDir.file("next")}` });
      expect(await migrationEnd(next)).toBe("completed");
      await expect.poll(() => machine.runState).toBe("postmigrate");
      await isAsleep(next);
      expect(next.serial.text).toBe("");
      await next.qmp("system_wakeup");
      await expectGoesOn(next, guestState(source));
    });
  });
});

/** A QEMU whose guest sleeps, ready to go over to postcopy, and a machine of the engine to which it can go. */
async function startAsleep(version: QemuVersion): Promise<{
  readonly source: QemuMachine;
  readonly host: PostcopyToyHost;
  readonly machine: VirtualMachine;
  readonly events: readonly string[];
}> {
  const source = await startQemu(guestMachine(workDir.path, { version, ...SLEEPER }));
  await isAsleep(source);
  await setCapabilities(source, "postcopy-ram");
  // The only pass takes a few seconds.
  await source.qmp("migrate-set-parameters", { "max-bandwidth": 3 * MIB, "downtime-limit": 1 });
  const host = Object.assign(await toyHostFor(source), { reset: () => undefined });
  const machine = new VirtualMachine(host, { memoryBytes: GUEST_MEMORY_BYTES, incoming: true });
  onTestFinished(() => machine.close());
  machine.migration.setCapabilities({ "postcopy-ram": true, events: true });
  const events: string[] = [];
  machine.onEvent((event) => events.push(event.name === "MIGRATION" ? event.data.status : event.name));
  return { source, host, machine, events };
}

/** A lazy load, from a snapshot of the guest, with the guest at the destination running. */
interface StartedLoad {
  readonly snapshot: Saved;
  readonly destination: LazyDestination;
  readonly loading: Promise<LazyLoadResult>;
}

async function startLoad(
  version: QemuVersion,
  preempt: boolean,
  reconnect?: (destination: LazyDestination) => Promise<PostcopyChannels>,
): Promise<StartedLoad> {
  const snapshot = await saved(workDir, version);
  const capabilities = ["events", "postcopy-blocktime", ...(preempt ? ["postcopy-preempt"] : [])];
  const destination = await LazyDestination.start(workDir, version, capabilities);
  const loading = load(snapshot, await destination.open("migrate-incoming"), {
    ...SLOW_FILL,
    ...(preempt ? { preempt: destination.preempt } : {}),
    ...(reconnect === undefined ? {} : { reconnect: () => reconnect(destination) }),
  });
  loading.catch(() => undefined);
  const { machine } = destination;
  await expect.poll(() => machine.events.some(({ event }) => event === "RESUME")).toBe(true);
  return { snapshot, destination, loading };
}

/** The guest at the destination is what it was, and all of its memory is there. */
async function expectLoaded({ snapshot, destination: { machine } }: StartedLoad): Promise<void> {
  expect(await migrationEnd(machine)).toBe("completed");
  const answer = (await machine.qmp("query-migrate")) as Record<string, unknown>;
  // `read_blocktime`
  expect(answer["postcopy-blocktime"]).toBeGreaterThanOrEqual(0);
  if ((await statusOf(machine)) === "paused") await machine.qmp("cont");
  await expectGoesOn(machine, snapshot.state);
}

/** A paused destination gets a good connection. */
async function openAgain(destination: LazyDestination): Promise<PostcopyChannels> {
  await destination.isPaused();
  const channel = await destination.open("migrate-recover");
  return { main: channel, returnPath: channel };
}

/** Brings a paused destination into a recovery in which nothing more is said than its first bytes. */
async function holdInRecovery(destination: LazyDestination): Promise<void> {
  await destination.isPaused();
  const channel = await destination.open("migrate-recover");
  await channel.write(FIRST_BYTES);
  await waitForStatus(destination.machine, "postcopy-recover");
}

/** It is still there, and is kicked out of it. */
async function kickOut({ machine }: LazyDestination): Promise<void> {
  expect((await migrationOf(machine)).status).toBe("postcopy-recover");
  await machine.qmp("migrate-pause");
}

/** What the destination goes through, with a pause and a recovery for each of so many. */
function targetStatuses(recoveries: number): string[] {
  const again = Array.from({ length: recoveries }, () => ["postcopy-paused", "postcopy-recover"]);
  return ["setup", "active", "postcopy-device", "postcopy-active", ...again.flat()];
}

describeWithQemu("11.1", "/migration/postcopy, from the engine to QEMU", () => {
  test.each([
    ["/migration/postcopy/plain", false],
    ["/migration/postcopy/preempt/plain", true],
  ])("%s", async (_, preempt) => {
    const started = await startLoad("11.1", preempt);
    const { statistics } = await started.loading;
    await expectLoaded(started);
    expect(statistics.recoveries).toBe(0);
    expect(statusesOf(started.destination.machine)).toEqual([...targetStatuses(0), "completed"]);
  });

  test.each([
    ["/migration/postcopy/recovery/plain", false],
    ["/migration/postcopy/preempt/recovery/plain", true],
  ])("%s", async (_, preempt) => {
    const started = await startLoad("11.1", preempt, openAgain);
    const { machine } = started.destination;
    await machine.qmp("migrate-pause");
    const { statistics } = await started.loading;
    await expectLoaded(started);
    expect(statistics.recoveries).toBe(1);
    expect(statusesOf(machine)).toEqual([...targetStatuses(1), "postcopy-active", "completed"]);
  });

  // The guest stands still: its monitor surely answers.
  test("/migration/postcopy/recovery/double-failures/handshake", async () => {
    const path = workDir.file("migsocket-silent");
    const heard = await listenInVain(path);
    let tries = 0;
    const started = await startLoad("11.1", false, async (destination) => {
      if (++tries > 1) {
        await kickOut(destination);
        return openAgain(destination);
      }
      await holdInRecovery(destination);
      const silent = await connectSocket({ path }, `unix:${path}`);
      // Broken off in the middle of the handshake.
      void heard().then(() => silent.close());
      return { main: silent, returnPath: silent };
    });
    const { machine } = started.destination;
    await machine.qmp("stop");
    await machine.qmp("migrate-pause");
    await started.loading;
    await expectLoaded(started);
    expect(tries).toBe(2);
    expect(statusesOf(machine)).toEqual([...targetStatuses(2), "postcopy-active", "completed"]);
  });

  test("/migration/postcopy/recovery/double-failures/reconnect", async () => {
    const started = await startLoad("11.1", false, async (destination) => {
      await holdInRecovery(destination);
      const path = workDir.file("nobody");
      const channel = await connectSocket({ path }, `unix:${path}`);
      return { main: channel, returnPath: channel };
    });
    const { destination, snapshot, loading } = started;
    await destination.machine.qmp("stop");
    await destination.machine.qmp("migrate-pause");
    await expect(loading).rejects.toThrow(/nobody/);
    await kickOut(destination);
    await destination.isPaused();
    await load(snapshot, await destination.open("migrate-recover"), {}, resumeLazyLoad);
    await expectLoaded(started);
    expect(statusesOf(destination.machine)).toEqual([
      ...targetStatuses(2),
      ...["postcopy-active", "completed"],
    ]);
  });
});

describe.each(["10.0", "11.1"] as const)("from the engine to QEMU %s", (version) => {
  describeWithQemu(version, "/migration/postcopy", () => {
    test("/migration/postcopy/suspend", async () => {
      const snapshot = await saved(workDir, version, SLEEPER, isAsleep);
      expect(snapshot.state.last.pass).toBe(SLEEP_PASS);
      const destination = await LazyDestination.start(workDir, version, [], SLEEPER);
      const { machine } = destination;
      await load(snapshot, await destination.open("migrate-incoming"), SLOW_FILL);
      expect(await migrationEnd(machine)).toBe("completed");
      await isAsleep(machine);
      expect(machine.serial.text).toBe("");
      await machine.qmp("system_wakeup");
      await expectGoesOn(machine, snapshot.state);
    });
  });
});
