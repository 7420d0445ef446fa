/** Lazy loads of the engine into real QEMUs: the guest runs while its memory is still in the file. */

import { describe, expect, test } from "vitest";

import { connectSocket, ReadableFile, type SocketChannel } from "../../src/channels/index.js";
import {
  lazyLoadMappedRam,
  type LazyLoadOptions,
  type LazyLoadResult,
  openMappedRam,
  type PreemptChannel,
  resumeLazyLoad,
} from "../../src/engine/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  type GuestState,
  guestMachine,
  guestState,
  migrationEnd,
  migrationOf,
  setCapabilities,
} from "../support/migrating-guest.js";
import { reserveHugePages } from "../support/huge-pages.js";
import { type QemuMachine, type QemuVersion, startQemu, type StartQemuOptions } from "../support/qemu.js";
import { ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

interface Saved {
  readonly path: string;
  readonly state: GuestState;
}

/** The machine beyond the ordinary one. */
type Extra = Partial<Pick<StartQemuOptions, "machine" | "memoryBytes" | "args">>;

/** A snapshot of the guest that checks its memory; saved by ramport, so that 7.2 has one too. */
async function saved(version: QemuVersion, extra: Extra = {}): Promise<Saved> {
  const source = await startQemu(guestMachine(workDir.path, { version, ...extra }));
  await source.waitForPass(2);
  const file = workDir.file("vm.ram");
  await ramportJson(["save", "--qmp", source.qmpPath, file]);
  const state = guestState(source);
  await source.kill();
  return { path: file, state };
}

/** The guest's memory in huge pages of 2 MiB. */
const HUGE_MEMORY_BYTES = 32 << 20;
const IN_HUGE_PAGES: Extra = {
  machine: "pc,memory-backend=pc.ram",
  memoryBytes: HUGE_MEMORY_BYTES,
  args: [
    ...["-device", "VGA", "-device", "e1000", "-object"],
    `memory-backend-memfd,id=pc.ram,size=${HUGE_MEMORY_BYTES},hugetlb=on,hugetlbsize=2M`,
  ],
};

class Destination {
  readonly machine: QemuMachine;
  readonly #early: boolean;
  #sockets = 0;
  #socket = "";

  constructor(machine: QemuMachine, version: QemuVersion) {
    this.machine = machine;
    this.#early = version === "7.2";
  }

  static async start(
    version: QemuVersion,
    capabilities: readonly string[] = [],
    extra: Extra = {},
  ): Promise<Destination> {
    const machine = await startQemu(guestMachine(workDir.path, { version, incoming: "defer", ...extra }));
    await setCapabilities(machine, "postcopy-ram", ...capabilities);
    return new Destination(machine, version);
  }

  /** Has it wait at a fresh address, and connects to it. */
  async open(command: "migrate-incoming" | "migrate-recover"): Promise<SocketChannel> {
    this.#socket = workDir.file(`in-${++this.#sockets}`);
    await this.machine.qmp(command, { uri: `unix:${this.#socket}` });
    return this.connect();
  }

  connect(): Promise<SocketChannel> {
    return connectSocket({ path: this.#socket }, `unix:${this.#socket}`);
  }

  get preempt(): PreemptChannel {
    return { connect: () => this.connect(), early: this.#early };
  }

  async isPaused(): Promise<void> {
    await expect
      .poll(async () => (await migrationOf(this.machine)).status, { interval: 2 })
      .toBe("postcopy-paused");
  }
}

/** Loads, and gives back what is known of it. */
async function load(
  { path }: Saved,
  channel: SocketChannel,
  options: LazyLoadOptions,
  how = lazyLoadMappedRam,
): Promise<LazyLoadResult> {
  const file = ReadableFile.open(path);
  try {
    return await how(file, openMappedRam(file), { main: channel, returnPath: channel }, options);
  } finally {
    file.close();
  }
}

/** So slow that the guest runs long before it has all of its memory. */
const SLOW_FILL = { fillBytesPerSecond: () => 8 << 20 };

describe.each(["7.2", "10.0", "11.1"] as const)("lazy load", (version) => {
  describeWithQemu(version, `into QEMU ${version}`, () => {
    test.each([
      ["as fast as it goes", {}],
      ["slowly, the guest running meanwhile", SLOW_FILL],
      ["page by page", { ...SLOW_FILL, clusterBytes: 0 }],
    ])("%s", async (_how, options) => {
      const snapshot = await saved(version);
      const destination = await Destination.start(version);
      const channel = await destination.open("migrate-incoming");
      const result = await load(snapshot, channel, options);
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
      expect(result.statistics.requests).toBeGreaterThan(0);
      expect(result.statistics.recoveries).toBe(0);
    });

    test("with postcopy-preempt", async () => {
      const snapshot = await saved(version);
      const destination = await Destination.start(version, ["postcopy-preempt"]);
      const channel = await destination.open("migrate-incoming");
      const result = await load(snapshot, channel, {
        ...SLOW_FILL,
        preempt: destination.preempt,
      });
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
      expect(result.statistics.askedForPages).toBeGreaterThan(0);
    });

    test.each([
      ["", []],
      [" with postcopy-preempt", ["postcopy-preempt"]],
    ])("a connection that breaks is taken up again%s", async (_what, capabilities) => {
      const snapshot = await saved(version);
      const destination = await Destination.start(version, capabilities);
      let channel = await destination.open("migrate-incoming");
      const preempt = capabilities.length > 0 ? { preempt: destination.preempt } : {};
      let breaks = 0;
      const loading = load(snapshot, channel, {
        ...SLOW_FILL,
        ...preempt,
        onProgress: ({ remainingBytes = 0, totalBytes = 0 }) => {
          if (breaks > 0 || remainingBytes > totalBytes / 4) return;
          breaks += 1;
          void channel.close();
        },
        reconnect: async () => {
          await destination.isPaused();
          channel = await destination.open("migrate-recover");
          return { main: channel, returnPath: channel };
        },
      });
      const result = await loading;
      expect(result.statistics.recoveries).toBe(1);
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
    });

    test.for([
      ["", [] as string[]],
      [" with postcopy-preempt", ["postcopy-preempt"]],
    ] as const)("memory in huge pages%s", async ([, capabilities], { skip }) => {
      const missing = reserveHugePages((2 * HUGE_MEMORY_BYTES) >> 21);
      if (missing !== undefined) return skip(missing);
      const snapshot = await saved(version, IN_HUGE_PAGES);
      const destination = await Destination.start(version, capabilities, IN_HUGE_PAGES);
      const channel = await destination.open("migrate-incoming");
      const result = await load(snapshot, channel, {
        fillBytesPerSecond: () => 64 << 20,
        hostPageSizeOf: (block) => (block.endsWith("pc.ram") ? 2 << 20 : undefined),
        ...(capabilities.length > 0 ? { preempt: destination.preempt } : {}),
      });
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
      expect(result.statistics.askedForPages).toBeGreaterThan(0);
      // Its memory is given back before the pool is.
      await destination.machine.kill();
    });

    test("a process that died is replaced by another one, which knows only the file", async () => {
      const snapshot = await saved(version);
      const destination = await Destination.start(version);
      const channel = await destination.open("migrate-incoming");
      const started = load(snapshot, channel, { ...SLOW_FILL });
      await destination.machine.waitForPass(snapshot.state.last.pass + 1);
      await channel.close();
      await expect(started).rejects.toMatchObject({ code: "connection-closed" });
      await destination.isPaused();
      const again = await destination.open("migrate-recover");
      await load(snapshot, again, {}, resumeLazyLoad);
      expect(await migrationEnd(destination.machine)).toBe("completed");
      await expectGoesOn(destination.machine, snapshot.state);
    });
  });
});
