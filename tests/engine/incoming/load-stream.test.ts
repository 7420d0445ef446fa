import { describe, expect, test } from "vitest";

import type { ByteSink, ByteSource } from "../../../src/channels/index.js";
import { loadHostFromStream } from "../../../src/engine/incoming/load-stream.js";
import { OutgoingMigration } from "../../../src/engine/outgoing/outgoing-migration.js";
import { StreamTarget } from "../../../src/engine/outgoing/stream-target.js";
import { CancelledError, MachineError, UsageError } from "../../../src/errors/index.js";
import { DEFAULT_CAPABILITIES, DEFAULT_PARAMETERS } from "../../../src/qapi/index.js";
import { SimLink } from "../../simulation/sim-link.js";
import { VirtualClock } from "../../simulation/virtual-clock.js";
import { Collector, sourceOf } from "../../support/byte-channels.js";
import { Random } from "../../support/random.js";
import { FakeHost } from "../fake-host.js";

const PAGE = 4096;

/** The stream of a host that stands still. */
async function streamOf(host: FakeHost): Promise<Uint8Array> {
  const sink = new Collector();
  await new OutgoingMigration(host, new StreamTarget(sink), {
    capabilities: DEFAULT_CAPABILITIES,
    parameters: () => DEFAULT_PARAMETERS,
  }).run();
  return sink.bytes;
}

function furnished(): FakeHost {
  const host = new FakeHost();
  host.ram[1]?.fill(7, 3 * PAGE, 9 * PAGE);
  host.device = Uint8Array.of(9, 8, 7, 6);
  return host;
}

function unclean(): FakeHost {
  const host = new FakeHost();
  for (const segment of [...host.ram, host.video]) segment.fill(0xab);
  return host;
}

describe("loadHostFromStream", () => {
  test("the machine is the source's, and is left standing", async () => {
    const source = furnished();
    const copy = unclean();
    const result = await loadHostFromStream(copy, sourceOf(await streamOf(source)));
    expect(copy.memory().equals(source.memory())).toBe(true);
    expect(copy.device).toEqual(source.device);
    expect(copy.running).toBe(false);
    expect(result).toMatchObject({ pages: { normal: 6, zero: 512 + 16 - 6 }, wasRunning: false });
  });

  test.each([
    [true, true],
    [true, false],
    [false, true],
  ])("the guest sleeps as it did: running %s, suspended %s", async (running, suspended) => {
    const source = Object.assign(furnished(), { suspended });
    if (running) await source.run();
    const copy = Object.assign(unclean(), { suspended: !suspended });
    const result = await loadHostFromStream(copy, sourceOf(await streamOf(source)));
    expect(result).toMatchObject({ wasRunning: running, wasSuspended: suspended });
    expect(copy.suspended).toBe(suspended);
  });

  test("a machine that knows no sleep refuses a guest that sleeps, and keeps its devices", async () => {
    const source = Object.assign(furnished(), { suspended: true });
    const copy = unclean();
    await expect(loadHostFromStream(copy, sourceOf(await streamOf(source)))).rejects.toMatchObject({
      code: "not-capable",
      message: expect.stringContaining("suspended") as string,
    });
    expect(copy.loads).toBe(0);
  });

  test.each([256, 1024, 65_536])("machines with pages of %i bytes", async (pageSize) => {
    const source = Object.assign(furnished(), { pageSize });
    const copy = Object.assign(unclean(), { pageSize });
    await loadHostFromStream(copy, sourceOf(await streamOf(source)));
    expect(copy.memory().equals(source.memory())).toBe(true);
  });

  test("refuses another machine before the first page, and changes nothing", async () => {
    const bytes = await streamOf(furnished());
    const copy = new FakeHost("other");
    copy.ram[0]?.fill(1);
    const before = copy.memory();
    await expect(loadHostFromStream(copy, sourceOf(bytes))).rejects.toThrow(/another machine/);
    expect(copy.memory().equals(before)).toBe(true);
  });

  test("a running host, and a signal that has fired", async () => {
    const bytes = await streamOf(furnished());
    const copy = new FakeHost();
    const signal = AbortSignal.abort();
    await expect(loadHostFromStream(copy, sourceOf(bytes), { signal })).rejects.toThrow(CancelledError);
    await copy.run();
    await expect(loadHostFromStream(copy, sourceOf(bytes))).rejects.toThrow(UsageError);
    await copy.stop();
  });

  test("cut off anywhere, it loads no devices", async () => {
    const source = furnished();
    // What looks like the section's own end, with an EOF and a description behind it.
    source.device = Uint8Array.of(1, 0x7e, 0, 0, 0, 4, 0, 6, 0, 0, 0, 2, 0x7b, 0x7d, 5, 6);
    const bytes = await streamOf(source);
    const tailStart = Buffer.from(bytes).lastIndexOf("globalstate");
    for (let length = tailStart - 200; length < bytes.length; length++) {
      const copy = new FakeHost();
      await expect(loadHostFromStream(copy, sourceOf(bytes.subarray(0, length)))).rejects.toThrow();
      expect(copy.loads).toBe(0);
    }
  });
});

describe("with a return path", () => {
  /** The same stream as a source with a return path sends it, which then waits. */
  async function waitingSource(
    bytes: Uint8Array,
    pauseAt: number,
    pauseMs: number,
  ): Promise<{
    readonly clock: VirtualClock;
    readonly link: SimLink;
    readonly sent: Promise<void>;
  }> {
    const clock = new VirtualClock(new Random(1));
    const spec = {
      latencyMs: 0.1,
      bytesPerMs: 1 << 20,
      capacity: 1 << 24,
      longestRead: 1 << 20,
      mostPieces: 1,
      lateWrites: false,
      resetLosesBytes: false,
    };
    const link = new SimLink(spec, clock, new Random(2));
    const send = async (): Promise<void> => {
      await link.source.write(bytes.subarray(0, pauseAt));
      await clock.sleep(pauseMs);
      await link.source.write(bytes.subarray(pauseAt));
    };
    return Promise.resolve({ clock, link, sent: send() });
  }

  /** A stream that opens the return path: the command stands behind the configuration. */
  async function confirmedStreamOf(host: FakeHost): Promise<Uint8Array> {
    const sink = new Collector();
    const silent: ByteSource = {
      // SHUT, at once behind the last byte.
      read: (target) => {
        target.set([0, 1, 0, 4, 0, 0, 0, 0]);
        return Promise.resolve(8);
      },
      close: () => Promise.resolve(),
    };
    let opened: (() => void) | undefined;
    const gate = new Promise<void>((resolve) => (opened = resolve));
    const target = new StreamTarget(sink, {
      returnPath: { ...silent, read: (bytes) => gate.then(() => silent.read(bytes)) },
    });
    const tail = target.tail.bind(target);
    target.tail = (...given) => {
      tail(...given);
      opened?.();
    };
    await new OutgoingMigration(host, target, {
      capabilities: { ...DEFAULT_CAPABILITIES, "return-path": true },
      parameters: () => DEFAULT_PARAMETERS,
    }).run();
    return sink.bytes;
  }

  test("silence in the middle of a device that looks like an end is waited out", async () => {
    const host = furnished();
    host.device = Uint8Array.of(1, 0x7e, 0, 0, 0, 4, 0, 6, 0, 0, 0, 2, 0x7b, 0x7d, 5, 6);
    const bytes = await confirmedStreamOf(host);
    const pauseAt = Buffer.from(bytes).indexOf(Buffer.of(0x7b, 0x7d, 5, 6)) + 2;
    const { clock, link, sent } = await waitingSource(bytes, pauseAt, 2000);
    const copy = unclean();
    const load = loadHostFromStream(copy, link.destination, { returnPath: link.destination, clock });
    await clock.run(Promise.all([load, sent]), { untilMs: 10_000, events: 10_000 });
    expect(copy.device).toEqual(host.device);
    expect(Buffer.concat(link.back.accepted).toString("hex")).toBe("0001000400000000");
  });

  test("the source is told when all is in place; a source that cannot be told has its guest back", async () => {
    const bytes = await confirmedStreamOf(furnished());
    const { clock, link, sent } = await waitingSource(bytes, bytes.length - 5, 10);
    const copy = unclean();
    const told: boolean[] = [];
    const returnPath: ByteSink = {
      write: () => {
        told.push(copy.loads === 1);
        return Promise.reject(new MachineError("connection-closed", "The source is gone"));
      },
      end: () => Promise.resolve(),
      close: () => Promise.resolve(),
    };
    const load = loadHostFromStream(copy, link.destination, { returnPath, clock });
    load.catch(() => undefined);
    await clock.run(sent, { untilMs: 10_000, events: 10_000 });
    await expect(clock.run(load, { untilMs: 10_000, events: 10_000 })).rejects.toThrow("The source is gone");
    expect(told).toEqual([true]);
  });
});
