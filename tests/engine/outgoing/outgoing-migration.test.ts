import { describe, expect, test } from "vitest";

import type { ByteSink } from "../../../src/channels/index.js";
import { loadHostFromStream } from "../../../src/engine/incoming/load-stream.js";
import { MigrationState } from "../../../src/engine/migration-states.js";
import { MappedRamTarget } from "../../../src/engine/outgoing/mapped-ram-target.js";
import { OutgoingMigration } from "../../../src/engine/outgoing/outgoing-migration.js";
import type { OutgoingOptions } from "../../../src/engine/outgoing/outgoing-options.js";
import { StreamTarget } from "../../../src/engine/outgoing/stream-target.js";
import { CancelledError } from "../../../src/errors/index.js";
import { DEFAULT_CAPABILITIES, DEFAULT_PARAMETERS } from "../../../src/qapi/index.js";
import { Collector, sourceOf } from "../../support/byte-channels.js";
import { FakeHost, MemoryFile } from "../fake-host.js";

async function running(): Promise<FakeHost> {
  const host = new FakeHost();
  host.ram[0]!.fill(9);
  await host.run();
  return host;
}

function migrationOf(host: FakeHost, options: Partial<OutgoingOptions> = {}): OutgoingMigration {
  return new OutgoingMigration(host, new MappedRamTarget(new MemoryFile()), {
    capabilities: { ...DEFAULT_CAPABILITIES, "mapped-ram": true },
    parameters: () => DEFAULT_PARAMETERS,
    ...options,
  });
}

describe("OutgoingMigration", () => {
  test("memory that is written while the guest stands still fails a migration into a file", async () => {
    const host = await running();
    const saveDevices = host.saveDevices.bind(host);
    host.saveDevices = () => {
      // A device that is still at work: its page went before.
      host.ram[1]![5] = 1;
      return saveDevices();
    };
    const migration = migrationOf(host);
    await expect(migration.run()).rejects.toThrow(/written while the guest stood still/);
    expect(migration.status).toBe("failed");
    expect(host.running).toBe(true);
    await host.stop();
  });

  test("a listener that throws does not leave the guest stopped", async () => {
    const host = await running();
    host.saveDevices = () => {
      throw new Error("no devices");
    };
    const state = new MigrationState((status) => {
      if (status === "failing") throw new Error("the listener's own fault");
    });
    const migration = migrationOf(host, { state });
    await expect(migration.run()).rejects.toThrow("the listener's own fault");
    expect(migration.status).toBe("failed");
    expect(host.running).toBe(true);
    await host.stop();
  });
});

test("an end that comes only because the channel was closed is none", async () => {
  const host = await running();
  let close = (): void => undefined;
  const closed = new Promise<void>((resolve) => (close = resolve));
  let cancel = (): void => undefined;
  const sink: ByteSink = {
    write: () => Promise.resolve(),
    end: () => {
      cancel();
      return closed;
    },
    close: () => {
      close();
      return closed;
    },
  };
  const migration = new OutgoingMigration(host, new StreamTarget(sink), {
    capabilities: DEFAULT_CAPABILITIES,
    parameters: () => DEFAULT_PARAMETERS,
  });
  cancel = () => migration.cancel();
  await expect(migration.run()).rejects.toThrow(CancelledError);
  expect(migration.status).toBe("cancelled");
  expect(host.running).toBe(true);
  await host.stop();
});

test("devices that are larger than what is gathered for one write arrive, and are counted once", async () => {
  const host = new FakeHost();
  host.ram[1]!.fill(3, 0, 5000);
  host.device = new Uint8Array(3 << 20).map((_, index) => index * 7);
  const sink = new Collector();
  const migration = new OutgoingMigration(host, new StreamTarget(sink), {
    capabilities: DEFAULT_CAPABILITIES,
    parameters: () => DEFAULT_PARAMETERS,
  });
  await migration.run();
  const stream = sink.bytes;
  expect(migration.info.ram?.transferred).toBe(stream.length);
  const destination = new FakeHost();
  await loadHostFromStream(destination, sourceOf(stream));
  expect(destination.memory().equals(host.memory())).toBe(true);
  expect(Buffer.compare(destination.device, host.device)).toBe(0);
});
