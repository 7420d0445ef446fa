import { describe, expect, onTestFinished, test } from "vitest";

import { SocketListener } from "../../../src/channels/index.js";
import { MigrationControl } from "../../../src/engine/control/migration-control.js";
import { MachineError, UsageError } from "../../../src/errors/index.js";
import type { CapabilityChanges, KnownMigrationStatus } from "../../../src/qapi/index.js";
import { PostcopyToyHost } from "../../support/postcopy-host.js";
import { Random } from "../../support/random.js";
import { useWorkDir } from "../../support/work-dir.js";
import { FakeHost } from "../fake-host.js";

const PAGE = 4096;
const MIB = 1 << 20;
const workDir = useWorkDir();
const uri = (name = "in"): string => `unix:${workDir.file(name)}`;

/** A machine and what was told of its migrations. */
class Side<H> {
  readonly host: H;
  readonly control: MigrationControl;
  readonly statuses: KnownMigrationStatus[] = [];
  #changed = (): void => undefined;

  constructor(host: H & ConstructorParameters<typeof MigrationControl>[0]) {
    this.host = host;
    this.control = new MigrationControl(host, {
      onStatus: (status) => {
        this.statuses.push(status);
        this.#changed();
      },
      onLoaded: ({ wasRunning }) => (wasRunning ? host.run() : undefined),
    });
    onTestFinished(async () => {
      await this.control.close();
      await host.stop();
    });
  }

  /** Resolves when the status was entered so often. */
  async entered(status: KnownMigrationStatus, times = 1): Promise<void> {
    while (this.statuses.filter((one) => one === status).length < times) {
      await new Promise<void>((resolve) => (this.#changed = resolve));
    }
  }
}

interface Pair {
  readonly from: Side<FakeHost>;
  readonly to: Side<PostcopyToyHost>;
}

/** A guest that rewrites pages at random, and a destination that waits. */
async function start(capabilities: CapabilityChanges = {}, address = uri()): Promise<Pair> {
  const source = new FakeHost();
  const random = new Random(7);
  for (let page = 0; page < 400; page++)
    source.ram[page % 2]!.fill(page, (page >> 1) * PAGE, ((page >> 1) + 1) * PAGE);
  source.guest = () => {
    source.ram[random.below(2)]![random.below(MIB)] = random.below(256);
  };
  const blocks = [
    { name: "pc.ram", usedLength: 2 * MIB, hostPageSize: PAGE },
    { name: "vga.vram", usedLength: 16 * PAGE, hostPageSize: PAGE },
  ];
  const from = new Side(source);
  const to = new Side(new PostcopyToyHost("fake", blocks));
  for (const { control } of [from, to]) control.setCapabilities({ "postcopy-ram": true, ...capabilities });
  await source.run();
  await to.control.incoming({ uri: address });
  // Enough for one pass at most, and no end by itself.
  from.control.setParameters({ "max-bandwidth": 2_000_000, "downtime-limit": 0 });
  return { from, to };
}

/** Into the middle of postcopy: the guest is at the destination, most of its memory is not. */
async function goOver({ from, to }: Pair, limited = true): Promise<void> {
  if (limited) from.control.setParameters({ "max-postcopy-bandwidth": 1000 });
  await from.control.migrate({ uri: uri() });
  await from.entered("active");
  from.control.startPostcopy();
  await Promise.all([from.entered("postcopy-active"), to.entered("postcopy-active")]);
}

/** Only one guest runs, and at the end its memory is what the other one was when it stopped. */
async function expectSame({ from, to }: Pair): Promise<void> {
  expect(await from.control.ended()).toBeUndefined();
  expect(await to.control.ended()).toBeUndefined();
  expect([from.host.running, to.host.running]).toEqual([false, true]);
  const memory = Buffer.concat(to.host.memory.blocks.map(({ bytes }) => bytes));
  expect(memory.equals(from.host.memory())).toBe(true);
  expect([from.statuses.at(-1), to.statuses.at(-1)]).toEqual(["completed", "completed"]);
}

const SOURCE = ["setup", "active", "device", "postcopy-device", "postcopy-active"];
const TARGET = ["setup", "active", "postcopy-device", "postcopy-active"];

describe.each([
  ["plain", {}],
  ["with postcopy-preempt", { "postcopy-preempt": true }],
])("%s", (_, capabilities) => {
  test("a guest goes over at once, and what it asks for comes before the rest", async () => {
    const pair = await start(capabilities);
    const { from, to } = pair;
    await goOver(pair);
    expect([from.host.running, to.host.running]).toEqual([false, true]);
    const { remaining = 0 } = from.control.info().ram ?? {};
    expect(remaining).toBeGreaterThan(MIB / 2);
    const random = new Random(3);
    for (let touch = 0; touch < 50; touch++) await to.host.memory.touch(0, random.below(2 * MIB));
    const { status, ram, downtime } = from.control.info();
    expect(status).toBe("postcopy-active");
    expect(downtime).toBeGreaterThanOrEqual(0);
    expect(ram?.["postcopy-requests"]).toBeGreaterThan(10);
    expect(ram?.["postcopy-bytes"]).toBeGreaterThan(10 * PAGE);
    // What went out counts in its window, and then nothing more does.
    const pagesPerSecond = () => from.control.info().ram?.["pages-per-second"];
    await expect.poll(pagesPerSecond).toBeGreaterThan(10);
    await expect.poll(pagesPerSecond).toBeLessThanOrEqual(10);
    from.control.setParameters({ "max-postcopy-bandwidth": 0 });
    await expectSame(pair);
    expect(from.statuses).toEqual([...SOURCE, "completed"]);
    expect(to.statuses).toEqual([...TARGET, "completed"]);
    expect(from.control.info().ram?.remaining).toBe(0);
  });

  test("a broken connection pauses both sides, and is mended", async () => {
    const pair = await start(capabilities);
    const { from, to } = pair;
    await goOver(pair);
    for (const time of [1, 2]) {
      (time === 1 ? from : to).control.pause();
      await Promise.all([from.entered("postcopy-paused", time), to.entered("postcopy-paused", time)]);
      expect([from.host.running, to.host.running]).toEqual([false, true]);
      expect(from.control.info()["error-desc"]).toBeDefined();
      const touched = to.host.memory.touch(0, 2 * MIB - 1 - time * 300 * PAGE);
      await to.control.recover({ uri: uri(`again-${time}`) });
      await from.control.resume({ uri: uri(`again-${time}`) });
      await Promise.all([from.entered("postcopy-active", time + 1), to.entered("postcopy-active", time + 1)]);
      await touched;
      expect(from.control.info()["error-desc"]).toBeUndefined();
    }
    from.control.setParameters({ "max-postcopy-bandwidth": 0 });
    await expectSame(pair);
    const again = ["postcopy-paused", "postcopy-recover", "postcopy-active"];
    expect(to.statuses).toEqual([...TARGET, ...again, ...again, "completed"]);
    again.splice(1, 0, "postcopy-recover-setup");
    expect(from.statuses).toEqual([...SOURCE, ...again, ...again, "completed"]);
  });
});

test("a migration that may go over to postcopy, and does not, ends as any other", async () => {
  const pair = await start();
  pair.from.control.setParameters({ "max-bandwidth": 0, "downtime-limit": 10_000 });
  await pair.from.control.migrate({ uri: uri() });
  await expectSame(pair);
  expect(pair.from.statuses).toEqual(["setup", "active", "device", "completed"]);
  expect(pair.to.statuses).toEqual(["setup", "active", "completed"]);
});

test("pages that were sent, and rewritten since, are discarded and come again", async () => {
  const pair = await start();
  const { from } = pair;
  // Round after round, and never an end: something is always rewritten meanwhile.
  from.control.setParameters({ "max-bandwidth": 0 });
  await from.control.migrate({ uri: uri() });
  await expect.poll(() => from.control.info().ram?.["dirty-sync-count"]).toBeGreaterThan(3);
  from.control.startPostcopy();
  await expectSame(pair);
  expect(from.statuses).toEqual([...SOURCE, "completed"]);
});

test("postcopy that is wanted before the connection stands begins with nothing sent", async () => {
  const pair = await start();
  const migrating = pair.from.control.migrate({ uri: uri() });
  pair.from.control.startPostcopy();
  await migrating;
  await expectSame(pair);
  expect(pair.from.statuses).toEqual([...SOURCE, "completed"]);
  // Each page went out once, by postcopy.
  const memory = pair.from.host.memory();
  const pages = Array.from({ length: memory.length / PAGE }, (_, page) =>
    memory.subarray(page * PAGE, (page + 1) * PAGE),
  );
  const normal = pages.filter((page) => page.some((byte) => byte !== 0)).length;
  const { ram } = pair.from.control.info();
  expect(ram).toMatchObject({ normal, "normal-bytes": normal * PAGE, duplicate: pages.length - normal });
  expect(ram?.["postcopy-bytes"]).toBeGreaterThan(normal * PAGE);
  expect(ram?.["precopy-bytes"]).toBeLessThan(PAGE);
});

test("a guest that stood still goes over as it is", async () => {
  const pair = await start();
  await pair.from.host.stop();
  await pair.from.control.migrate({ uri: uri() });
  pair.from.control.startPostcopy();
  expect(await pair.from.control.ended()).toBeUndefined();
  expect(await pair.to.control.ended()).toBeUndefined();
  expect(pair.to.host.running).toBe(false);
});

describe("what is refused", () => {
  test("in postcopy: to cancel, to begin again, other capabilities", async () => {
    const pair = await start();
    const { control } = pair.from;
    await goOver(pair);
    expect(() => control.cancel()).toThrow(/cannot be cancelled/);
    await expect(control.resume({ uri: uri() })).rejects.toThrow(/no paused postcopy/);
    await expect(control.migrate({ uri: uri() })).rejects.toThrow(UsageError);
    await expect(pair.to.control.migrate({ uri: uri() })).rejects.toThrow(UsageError);
    await expect(pair.to.control.recover({ uri: uri("again") })).rejects.toThrow(/paused/);
    expect(() => control.setCapabilities({ events: true })).toThrow(/while a migration runs/);
    control.setParameters({ "max-postcopy-bandwidth": 0 });
    await expectSame(pair);
  });

  test("at a destination with postcopy-ram off: a source that may go over to postcopy", async () => {
    const pair = await start();
    const { from, to } = pair;
    to.control.setCapabilities({ "postcopy-ram": false });
    await from.control.migrate({ uri: uri() });
    expect((await to.control.ended())?.message).toMatch(/capability postcopy-ram is off here/);
    expect((await from.control.ended())?.message).toMatch(/destination says that loading failed/);
    expect([from.host.running, to.host.running]).toEqual([true, false]);
    expect([from.statuses.at(-1), to.statuses.at(-1)]).toEqual(["failed", "failed"]);
    // One that does not announce it is taken.
    from.control.setCapabilities({ "postcopy-ram": false });
    from.control.setParameters({ "max-bandwidth": 0, "downtime-limit": 10_000 });
    const { to: other } = await start({ "postcopy-ram": false }, uri("other"));
    await from.control.migrate({ uri: uri("other") });
    await expectSame({ from, to: other });
  });

  test("elsewhere: what belongs to postcopy", async () => {
    const { from, to } = await start();
    expect(() => from.control.startPostcopy()).toThrow(/only after/);
    expect(() => from.control.pause()).toThrow(/postcopy-active/);
    expect(() => to.control.pause()).toThrow(/postcopy-active/);
    const other = new MigrationControl(new FakeHost());
    expect(() => other.startPostcopy()).toThrow(/postcopy-ram is off/);
    other.setCapabilities({ "postcopy-ram": true });
    await expect(other.incoming({ uri: uri("other") })).rejects.toThrow(/cannot run while pages/);
    await expect(from.control.migrate({ uri: `file:${workDir.file("file")}` })).rejects.toThrow(
      /no return path/,
    );
    expect(from.host.running).toBe(true);
  });
});

describe("a destination that cannot take the guest", () => {
  const refusals: readonly (readonly [string, (host: PostcopyToyHost) => void])[] = [
    ["sees that from the devices", (host) => (host.checkDevices = cannot)],
    ["finds out when it loads them", (host) => (host.loadDevices = cannot)],
    ["cannot make its memory missing", (host) => (host.memory.begin = cannot)],
  ];

  test.each(refusals)("%s: the guest goes on where it was, and goes elsewhere", async (_, spoil) => {
    const pair = await start();
    const { from, to } = pair;
    spoil(to.host);
    await from.control.migrate({ uri: uri() });
    from.control.startPostcopy();
    expect((await from.control.ended())?.message).toMatch(/destination says that loading failed/);
    expect((await to.control.ended())?.message).toMatch(/no such device/);
    expect(from.statuses).toEqual([...SOURCE.slice(0, -1), "failing", "failed"]);
    expect(from.control.info()).toEqual({
      status: "failed",
      "error-desc": expect.stringMatching(/says that loading failed/) as string,
    });
    expect([from.host.running, to.host.running]).toEqual([true, false]);
    const { to: other } = await start({}, uri("other"));
    await from.control.migrate({ uri: uri("other") });
    from.control.startPostcopy();
    await expectSame({ from, to: other });
  });

  test("when it has said that it runs it: nobody knows whether it did, and it stays there", async () => {
    const pair = await start();
    const { from, to } = pair;
    to.host.run = () => Promise.reject(new Error("it may have run a while"));
    await from.control.migrate({ uri: uri() });
    from.control.startPostcopy();
    expect((await to.control.ended())?.message).toMatch(/it may have run/);
    await from.entered("postcopy-paused");
    expect(from.host.running).toBe(false);
  });
});

function cannot(): never {
  throw new MachineError("io", "no such device");
}

describe("a source that comes back", () => {
  test("finds nobody: it stays paused, and says why", async () => {
    const pair = await start();
    const { from, to } = pair;
    await goOver(pair);
    from.control.pause();
    await Promise.all([from.entered("postcopy-paused"), to.entered("postcopy-paused")]);
    await from.control.resume({ uri: uri("nobody") });
    expect(from.control.info()).toMatchObject({
      status: "postcopy-paused",
      "error-desc": expect.stringContaining("nobody") as string,
    });
    expect(from.statuses.slice(-3)).toEqual(["postcopy-paused", "postcopy-recover-setup", "postcopy-paused"]);
    await to.control.recover({ uri: uri("again") });
    await from.control.resume({ uri: uri("again") });
    from.control.setParameters({ "max-postcopy-bandwidth": 0 });
    await expectSame(pair);
  });

  test("finds somebody who says nothing, is told to pause, and goes on elsewhere", async () => {
    const pair = await start();
    const { from, to } = pair;
    await goOver(pair);
    from.control.pause();
    await Promise.all([from.entered("postcopy-paused"), to.entered("postcopy-paused")]);
    const silent = await SocketListener.listen({ path: workDir.file("silent") }, "silent");
    onTestFinished(() => silent.close());
    await from.control.resume({ uri: uri("silent") });
    await from.entered("postcopy-recover");
    from.control.pause();
    await from.entered("postcopy-paused", 2);
    // Waiting at one address, it may be told another one.
    await to.control.recover({ uri: uri("early") });
    await to.control.recover({ uri: uri("again") });
    await from.control.resume({ uri: uri("again") });
    from.control.setParameters({ "max-postcopy-bandwidth": 0 });
    await expectSame(pair);
  });
});

test("a guest that is let go on here though it is the destination's fails the migration, and stays there", async () => {
  const pair = await start();
  const { from } = pair;
  await goOver(pair);
  await from.host.run();
  from.control.setParameters({ "max-postcopy-bandwidth": 0 });
  const failure = await from.control.ended();
  expect(failure?.message).toMatch(/let go on here/);
  expect(from.statuses.at(-1)).toBe("failed");
  expect(from.control.info()["error-desc"]).toMatch(/let go on here/);
});

test("a source that ends leaves its guest stopped, and the destination paused", async () => {
  const pair = await start();
  const { from, to } = pair;
  await goOver(pair);
  await from.control.close();
  await to.entered("postcopy-paused");
  expect([from.host.running, to.host.running]).toEqual([false, true]);
  expect(from.statuses).not.toContain("failed");
});
