import fs from "node:fs";

import { describe, expect, test } from "vitest";

import { MigrationControl } from "../../src/engine/index.js";
import { FormatError, MachineError } from "../../src/errors/index.js";
import type { MachineEvent } from "../../src/monitor/index.js";
import { type MachineEnd, VirtualMachine, type VirtualMachineOptions } from "../../src/vm/index.js";
import { FakeHost } from "../engine/fake-host.js";
import { PostcopyToyHost } from "../support/postcopy-host.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

class ResettableFake extends FakeHost {
  reset(): void {
    this.calls.push("reset");
  }
}

/** Its guest sleeps when it is told to. */
class SleepyFake extends ResettableFake {
  suspended: boolean | undefined = false;
  #hear: () => void = () => undefined;

  onSuspend(listener: () => void): () => void {
    this.#hear = listener;
    return () => undefined;
  }

  sleep(): void {
    this.suspended = true;
    this.#hear();
  }

  wake(): void {
    this.calls.push("wake");
    this.suspended = false;
  }

  override reset(): void {
    super.reset();
    this.suspended = false;
  }
}

interface Made {
  readonly host: ResettableFake;
  readonly machine: VirtualMachine;
  readonly events: string[];
}

function make(options: Partial<VirtualMachineOptions> = {}): Made {
  return makeAround(new ResettableFake(), options);
}

function makeAround<Host extends ResettableFake>(
  host: Host,
  options: Partial<VirtualMachineOptions>,
): Made & { readonly host: Host } {
  const machine = new VirtualMachine(host, { memoryBytes: 2 << 20, incoming: false, ...options });
  const events: string[] = [];
  machine.onEvent((event) => events.push(describeEvent(event)));
  return { host, machine, events };
}

function describeEvent(event: MachineEvent): string {
  if (event.name === "MIGRATION") return event.data.status;
  return event.name === "MIGRATION_PASS" ? `pass ${event.data.pass}` : event.name;
}

async function statusReaches(machine: VirtualMachine, ...statuses: string[]): Promise<void> {
  while (!statuses.includes(machine.migration.info().status ?? "none"))
    await new Promise((resolve) => setImmediate(resolve));
}

describe("run states", () => {
  test("a new machine stands in prelaunch, and is stopped and let go on", async () => {
    const { host, machine, events } = make();
    expect(machine.runState).toBe("prelaunch");
    await machine.stop();
    expect(machine.runState).toBe("prelaunch");
    await machine.cont();
    await machine.cont();
    expect([machine.runState, host.running]).toEqual(["running", true]);
    await machine.stop();
    await machine.stop();
    expect([machine.runState, host.running]).toEqual(["paused", false]);
    machine.reset();
    expect(events).toEqual(["RESUME", "STOP", "RESET"]);
  });

  test("it ends by its monitor", async () => {
    const { machine, events } = make();
    machine.quit();
    machine.shutDown({ reason: "host-signal" });
    expect(await machine.ended).toEqual({ reason: "host-qmp-quit" } satisfies MachineEnd);
    expect(events).toEqual(["SHUTDOWN"]);
  });
});

describe("a guest that sleeps", () => {
  function makeSleepy(options: Partial<VirtualMachineOptions> = {}): Made & { readonly host: SleepyFake } {
    return makeAround(new SleepyFake(), options);
  }

  test("is woken by system_wakeup only", async () => {
    const { host, machine, events } = makeSleepy();
    await machine.cont();
    expect(() => machine.wakeUp()).toThrow(/guest is not in suspended state/);
    host.sleep();
    expect([machine.runState, host.running]).toEqual(["suspended", true]);
    await machine.cont();
    expect(machine.runState).toBe("suspended");
    machine.wakeUp();
    expect([machine.runState, host.suspended]).toEqual(["running", false]);
    expect(() => machine.wakeUp()).toThrow(/guest is not in suspended state/);
    expect(events).toEqual(["RESUME", "SUSPEND", "WAKEUP"]);
    await machine.stop();
  });

  test("is stopped and let go on in its sleep", async () => {
    const { host, machine, events } = makeSleepy();
    await machine.cont();
    host.sleep();
    await machine.stop();
    expect([machine.runState, host.running]).toEqual(["paused", false]);
    expect(() => machine.wakeUp()).toThrow(/guest is not in suspended state/);
    await machine.cont();
    expect([machine.runState, host.running, host.suspended]).toEqual(["suspended", true, true]);
    expect(events).toEqual(["RESUME", "SUSPEND", "STOP", "RESUME"]);
    await machine.stop();
  });

  test("that falls asleep while its machine stops sleeps when it is let go on", async () => {
    const { host, machine, events } = makeSleepy();
    await machine.cont();
    await machine.stop();
    host.sleep();
    expect(machine.runState).toBe("paused");
    await machine.cont();
    expect(machine.runState).toBe("suspended");
    expect(events).toEqual(["RESUME", "STOP", "RESUME"]);
    await machine.stop();
  });

  test("waits for cont when it was reset", async () => {
    const { host, machine, events } = makeSleepy();
    await machine.cont();
    host.sleep();
    machine.reset();
    expect([machine.runState, host.running, host.suspended]).toEqual(["prelaunch", false, false]);
    await machine.cont();
    expect(machine.runState).toBe("running");
    expect(events).toEqual(["RESUME", "SUSPEND", "RESET", "RESUME"]);
    await machine.stop();
  });

  test("sleeps on where its migration was cancelled", async () => {
    const { host, machine, events } = makeSleepy();
    machine.migration.setCapabilities({ "pause-before-switchover": true, "mapped-ram": true });
    await machine.cont();
    host.sleep();
    await machine.migration.migrate({ uri: `file:${workDir.file("vm.ram")}` });
    await statusReaches(machine, "pre-switchover");
    expect(machine.runState).toBe("finish-migrate");
    machine.migration.cancel();
    await statusReaches(machine, "cancelled");
    expect([machine.runState, host.running]).toEqual(["suspended", true]);
    expect(events).toEqual(["RESUME", "SUSPEND", "STOP", "RESUME"]);
    await machine.stop();
  });

  test.each([
    ["in a machine that ran", false, "suspended", ["RESUME", "WAKEUP"]],
    ["in a machine that was stopped", true, "paused", ["RESUME", "WAKEUP"]],
  ])("arrives asleep %s", async (_, stopped, state, expected) => {
    const uri = `file:${workDir.file("vm.ram")}`;
    const source = makeSleepy();
    source.machine.migration.setCapabilities({ "mapped-ram": true });
    await source.machine.cont();
    source.host.sleep();
    if (stopped) await source.machine.stop();
    await source.machine.migration.migrate({ uri });
    await statusReaches(source.machine, "completed");
    const { host, machine, events } = makeSleepy({ incoming: true });
    machine.migration.setCapabilities({ "mapped-ram": true });
    await machine.incoming({ uri }, false);
    await statusReaches(machine, "completed", "failed");
    expect([machine.runState, host.suspended]).toEqual([state, true]);
    if (stopped) await machine.cont();
    machine.wakeUp();
    expect([machine.runState, host.running, host.suspended]).toEqual(["running", true, false]);
    expect(events).toEqual(expected);
    await machine.stop();
  });

  test("is not possible in machines that cannot wake it", async () => {
    const { machine } = make();
    await machine.cont();
    expect(() => machine.wakeUp()).toThrow("wake-up from suspend is not supported by this guest");
    await machine.stop();
  });
});

describe("an outgoing migration", () => {
  test("takes the machine from running over finish-migrate to postmigrate, and cont back", async () => {
    const { host, machine, events } = make();
    machine.migration.setCapabilities({ "pause-before-switchover": true, "mapped-ram": true });
    await machine.cont();
    await machine.migration.migrate({ uri: `file:${workDir.file("vm.ram")}` });
    expect(machine.runState).toBe("running");
    await statusReaches(machine, "pre-switchover");
    expect(machine.runState).toBe("finish-migrate");
    await expect(machine.cont()).rejects.toThrow(/migration process in progress/);
    machine.migration.continue("pre-switchover");
    await statusReaches(machine, "completed");
    expect([machine.runState, host.running]).toEqual(["postmigrate", false]);
    await machine.cont();
    expect([machine.runState, host.running]).toEqual(["running", true]);
    expect(events).toEqual(["RESUME", "STOP", "RESUME"]);
    await machine.stop();
  });

  test("of a stopped guest goes the same way without events", async () => {
    const { machine, events } = make();
    machine.migration.setCapabilities({ "mapped-ram": true });
    await machine.migration.migrate({ uri: `file:${workDir.file("vm.ram")}` });
    await statusReaches(machine, "completed");
    expect(machine.runState).toBe("postmigrate");
    expect(events).toEqual([]);
  });

  test.each([
    ["runs on", false, "running"],
    ["stays stopped when that was asked for meanwhile", true, "paused"],
  ])("that is cancelled at the switch-over: the guest %s", async (_, stop, state) => {
    const { host, machine, events } = make();
    machine.migration.setCapabilities({ "pause-before-switchover": true, "mapped-ram": true, events: true });
    await machine.cont();
    await machine.migration.migrate({ uri: `file:${workDir.file("vm.ram")}` });
    await statusReaches(machine, "pre-switchover");
    if (stop) await machine.stop();
    machine.migration.cancel();
    await statusReaches(machine, "cancelled");
    expect([machine.runState, host.running]).toEqual([state, !stop]);
    expect(events.filter((event) => !event.startsWith("pass"))).toEqual([
      ...["RESUME", "setup", "active", "STOP", "pre-switchover", "cancelling"],
      ...(stop ? [] : ["RESUME"]),
      "cancelled",
    ]);
    expect(events).toContain("pass 2");
    await machine.stop();
  });

  test("to nobody fails after the command was answered, and a bad file fails the command", async () => {
    const { machine } = make();
    await machine.cont();
    await machine.migration.migrate({ uri: `unix:${workDir.file("nobody")}` });
    await statusReaches(machine, "failed");
    expect(machine.migration.info()["error-desc"]).toMatch(/nobody/);
    await expect(machine.migration.migrate({ uri: "file:/nowhere/x" })).rejects.toThrow(MachineError);
    await expect(machine.migration.migrate({ uri: "unix:" })).rejects.toThrow();
    expect(machine.runState).toBe("running");
    await machine.stop();
  });
});

describe("a guest that was handed over, and whose destination cannot load it", () => {
  test.each([
    ["running", ["RESUME", "STOP", "RESUME"]],
    ["prelaunch", []],
  ])("is %s here again", async (runState, events) => {
    const made = make();
    const { host, machine } = made;
    if (runState === "running") await machine.cont();
    const blocks = host.ramBlocks().map((block) => ({ ...block, hostPageSize: host.pageSize }));
    const destination = new PostcopyToyHost(host.machine, blocks);
    destination.loadDevices = () => {
      throw new MachineError("io", "no such device");
    };
    const other = new MigrationControl(destination);
    for (const control of [machine.migration, other]) control.setCapabilities({ "postcopy-ram": true });
    const uri = `unix:${workDir.file("in")}`;
    await other.incoming({ uri });
    machine.migration.setParameters({ "max-bandwidth": 1_000_000, "downtime-limit": 0 });
    const statuses: string[] = [];
    machine.onEvent((event) => {
      if (event.name === "MIGRATION") statuses.push(event.data.status);
    });
    machine.migration.setCapabilities({ events: true });
    await machine.migration.migrate({ uri });
    machine.migration.startPostcopy();
    await statusReaches(machine, "failed", "postcopy-paused");
    expect(statuses.slice(-3)).toEqual(["postcopy-device", "failing", "failed"]);
    expect([machine.runState, host.running]).toEqual([runState, runState === "running"]);
    await machine.cont();
    expect([machine.runState, host.running]).toEqual(["running", true]);
    await machine.stop();
    const others = made.events.filter((event) => !statuses.includes(event) && !event.startsWith("pass"));
    expect(others.slice(0, events.length)).toEqual(events);
    await Promise.all([machine.close(), other.close()]);
  });
});

describe("an incoming migration", () => {
  /** A file of a guest that ran, or stood still. */
  async function saved(running: boolean): Promise<{ readonly file: string; readonly memory: Buffer }> {
    const { host, machine } = make();
    host.ram[0]?.fill(7);
    machine.migration.setCapabilities({ "mapped-ram": true });
    if (running) await machine.cont();
    const file = workDir.file(`${running}.ram`);
    await machine.migration.migrate({ uri: `file:${file}` });
    await statusReaches(machine, "completed");
    return { file, memory: host.memory() };
  }

  test.each([
    ["ran", "starts", true, undefined, "running"],
    ["ran", "waits with -S", true, false, "paused"],
    ["stood still", "stands still", false, undefined, "paused"],
  ])("of a guest that %s: it %s", async (_, __, ran, autostart, state) => {
    const { file, memory } = await saved(ran);
    const { host, machine, events } = make({
      incoming: true,
      ...(autostart === undefined ? {} : { autostart }),
    });
    machine.migration.setCapabilities({ "mapped-ram": true, events: true });
    expect(machine.runState).toBe("inmigrate");
    await machine.incoming({ uri: `file:${file}` }, true);
    await statusReaches(machine, "completed");
    expect(machine.runState).toBe(state);
    expect(host.running).toBe(state === "running");
    expect(host.memory().equals(memory)).toBe(true);
    expect(events).toEqual(["setup", "active", ...(state === "running" ? ["RESUME"] : []), "completed"]);
    await expect(machine.incoming({ uri: `file:${file}` }, true)).rejects.toThrow();
    // What came can go on by itself.
    await machine.migration.migrate({ uri: `file:${workDir.file("next.ram")}` });
    await statusReaches(machine, "completed");
    expect(machine.runState).toBe("postmigrate");
  });

  test("stop and cont say beforehand what the guest will do", async () => {
    const { file } = await saved(true);
    for (const last of ["stop", "cont"] as const) {
      const { machine, events } = make({ incoming: true });
      machine.migration.setCapabilities({ "mapped-ram": true });
      await machine[last === "stop" ? "cont" : "stop"]();
      await machine[last]();
      expect([machine.runState, events]).toEqual(["inmigrate", []]);
      await machine.incoming({ uri: `file:${file}` }, true);
      await statusReaches(machine, "completed");
      expect(machine.runState).toBe(last === "stop" ? "paused" : "running");
      await machine.stop();
    }
  });

  test("that fails ends the machine, unless it was told not to", async () => {
    const file = workDir.file("bad.ram");
    fs.writeFileSync(file, Buffer.alloc(8192, 1));
    const ends = make({ incoming: true });
    await ends.machine.incoming({ uri: `file:${file}` }, true);
    expect(await ends.machine.ended).toMatchObject({
      reason: "host-error",
      error: expect.any(FormatError) as Error,
    });
    const stays = make({ incoming: true });
    await stays.machine.incoming({ uri: `file:${file}` }, false);
    await statusReaches(stays.machine, "failed");
    expect(stays.machine.runState).toBe("inmigrate");
    expect(stays.machine.migration.info()["error-desc"]).toBeDefined();
    expect(stays.events).toEqual([]);
  });

  test("that cannot begin fails the command only", async () => {
    const { machine } = make({ incoming: true });
    await expect(machine.incoming({ uri: "file:/nowhere" }, true)).rejects.toThrow(/does not exist/);
    expect(machine.runState).toBe("inmigrate");
    const { file } = await saved(true);
    machine.migration.setCapabilities({ "mapped-ram": true });
    await machine.incoming({ uri: `file:${file}` }, true);
    await statusReaches(machine, "completed");
    expect(machine.runState).toBe("running");
    await machine.stop();
  });
});
