import fs from "node:fs";

import { describe, expect, test, vi } from "vitest";

import { MigrationControl } from "../../../src/engine/control/migration-control.js";
import { loadHost } from "../../../src/engine/incoming/load-host.js";
import { MachineError, UsageError } from "../../../src/errors/index.js";
import { hasDirectIo, watchTransfers } from "../../support/direct-io.js";
import { useWorkDir } from "../../support/work-dir.js";
import { FakeHost, MemoryFile } from "../fake-host.js";

const PAGE = 4096;

const workDir = useWorkDir();

function filled(): FakeHost {
  const host = new FakeHost();
  host.ram[0]!.fill(7, 0, 100 * PAGE);
  return host;
}

async function loaded(path: string): Promise<FakeHost> {
  const file = new MemoryFile();
  file.bytes = fs.readFileSync(path);
  const host = new FakeHost();
  await loadHost(host, file);
  return host;
}

describe("one migration after another", () => {
  test("one that begins the moment another has failed may have the same file", async () => {
    const host = filled();
    await host.run();
    const uri = `file:${workDir.file("vm.ram")}`;
    let second: Promise<void> | undefined;
    const control = new MigrationControl(host, {
      onStatus: (status) => {
        if (status === "device" && second === undefined) control.cancel();
        if (status === "cancelled") second = control.migrate({ uri });
      },
    });
    control.setCapabilities({ "mapped-ram": true });
    await control.migrate({ uri });
    await control.ended();
    await second;
    expect(await control.ended()).toBeUndefined();
    expect((await loaded(workDir.file("vm.ram"))).memory().equals(host.memory())).toBe(true);
  });

  test("what was told beforehand of a failure to begin is not hidden by an earlier incoming migration", async () => {
    const source = new MigrationControl(filled());
    source.setCapabilities({ "mapped-ram": true });
    const uri = `file:${workDir.file("vm.ram")}`;
    await source.migrate({ uri });
    expect(await source.ended()).toBeUndefined();
    const control = new MigrationControl(new FakeHost());
    control.setCapabilities({ "mapped-ram": true });
    await control.incoming({ uri });
    expect(await control.ended()).toBeUndefined();
    expect(control.info()).toEqual({ status: "completed" });
    control.setCapabilities({ "mapped-ram": false });
    await control.migrate({ uri: `unix:${workDir.file("nobody")}` });
    expect(control.info()).toMatchObject({ status: "failed", "error-desc": expect.any(String) as string });
  });
});

describe("cancel", () => {
  test.each(["file:", "exec:cat > "])("ends a migration to %s that has only begun to begin", async (way) => {
    const host = filled();
    await host.run();
    const control = new MigrationControl(host);
    const begun = control.migrate({ uri: `${way}${workDir.file("out")}` });
    control.cancel();
    await begun;
    await control.ended();
    expect(control.info()).toEqual({ status: "cancelled" });
    expect(host.running).toBe(true);
  });

  test("is heard when the first status tells of the migration", async () => {
    const host = filled();
    await host.run();
    const control = new MigrationControl(host, {
      onStatus: (status) => {
        if (status === "setup") control.cancel();
      },
    });
    await control.migrate({ uri: `file:${workDir.file("out")}` });
    await control.ended();
    expect(control.info()).toEqual({ status: "cancelled" });
    expect(host.running).toBe(true);
  });
});

test("a file that can be neither written nor removed is no unhandled rejection, and is said to be worthless", async () => {
  const host = filled();
  await host.run();
  const fd = fs.openSync(workDir.file("vm.ram"), "w+");
  const control = new MigrationControl(host, {
    descriptorSets: new Map([[1, [fd]]]),
    onStatus: (status) => {
      if (status === "device") fs.closeSync(fd);
    },
  });
  control.setCapabilities({ "mapped-ram": true });
  await control.migrate({ uri: "file:/dev/fdset/1" });
  const failure = await control.ended();
  expect(failure).toBeInstanceOf(MachineError);
  expect(failure?.message).toMatch(/must not be used/);
  expect(control.info()["error-desc"]).toMatch(/must not be used/);
  expect(host.running).toBe(true);
});

test("an xbzrle cache that cannot be had leaves the parameters as they were", async () => {
  const host = filled();
  await host.run();
  const control = new MigrationControl(host);
  control.setCapabilities({ xbzrle: true, "pause-before-switchover": true });
  await control.migrate({ uri: `file:${workDir.file("out")}` });
  while (control.info().status !== "pre-switchover") await new Promise((resolve) => setImmediate(resolve));
  const before = control.parameters;
  function noMemory(): never {
    throw new RangeError("Array buffer allocation failed");
  }
  vi.stubGlobal("Float64Array", noMemory);
  try {
    expect(() => control.setParameters({ "xbzrle-cache-size": 2 ** 30 })).toThrow(UsageError);
  } finally {
    vi.unstubAllGlobals();
  }
  expect(control.parameters).toEqual(before);
  control.cancel();
  await control.ended();
});

describe("multifd with mapped-ram", () => {
  const settings = { "mapped-ram": true, multifd: true };

  async function migrated(direct: boolean, options: { readonly multifd: boolean }): Promise<number[]> {
    const host = filled();
    const uri = `file:${workDir.file("vm.ram")}`;
    const source = new MigrationControl(host);
    const destination = new MigrationControl(new FakeHost());
    for (const control of [source, destination]) {
      control.setCapabilities({ ...settings, ...options });
      control.setParameters({ "direct-io": direct, "multifd-channels": 3 });
    }
    const seen = watchTransfers();
    await source.migrate({ uri });
    expect(await source.ended()).toBeUndefined();
    await destination.incoming({ uri });
    expect(await destination.ended()).toBeUndefined();
    vi.restoreAllMocks();
    expect((await loaded(workDir.file("vm.ram"))).memory().equals(host.memory())).toBe(true);
    return seen.direct;
  }

  test.skipIf(!hasDirectIo())("direct-io leads pages past the page cache, both ways", async () => {
    const pages = (await migrated(true, { multifd: true })).filter((length) => length >= 100 * PAGE);
    // Written from a copy, since the fake host's memory is not aligned; read the same way.
    expect(pages.length).toBeGreaterThanOrEqual(2);
    expect(await migrated(false, { multifd: true })).toEqual([]);
  });

  test("direct-io without multifd does nothing, as in QEMU", async () => {
    expect(await migrated(true, { multifd: false })).toEqual([]);
  });

  test("pages stay whole whatever the bandwidth lets through at once", async () => {
    const host = filled();
    const control = new MigrationControl(host);
    control.setCapabilities(settings);
    control.setParameters({ "max-bandwidth": 3_000_001 });
    await control.migrate({ uri: `file:${workDir.file("vm.ram")}` });
    expect(await control.ended()).toBeUndefined();
    expect((await loaded(workDir.file("vm.ram"))).memory().equals(host.memory())).toBe(true);
  });

  test("over anything but a file it is refused before the migration begins, either way", async () => {
    const control = new MigrationControl(filled());
    control.setCapabilities({ multifd: true });
    const nobody = { uri: `unix:${workDir.file("nobody")}` };
    await expect(control.migrate(nobody)).rejects.toThrow(
      /multifd for mapped-ram files only.*turn multifd off/,
    );
    await expect(control.incoming(nobody)).rejects.toBeInstanceOf(UsageError);
    expect(control.info()).toEqual({});
    control.setCapabilities({ "mapped-ram": true });
    await control.migrate({ uri: "exec:cat > /dev/null" }).catch((error: unknown) => {
      expect(error).toBeInstanceOf(UsageError);
    });
    expect(control.info()).toMatchObject({ status: "failed" });
  });

  test("cancelled while writes are in flight, nothing of the file stays, and the guest runs on", async () => {
    const host = filled();
    await host.run();
    const control = new MigrationControl(host, {
      onStatus: (status) => {
        if (status === "device") control.cancel();
      },
    });
    control.setCapabilities(settings);
    await control.migrate({ uri: `file:${workDir.file("vm.ram")}` });
    expect(await control.ended()).toBeDefined();
    expect(control.info()).toMatchObject({ status: "cancelled" });
    expect(fs.statSync(workDir.file("vm.ram")).size).toBe(0);
    expect(host.running).toBe(true);
  });
});
