/**
 * Snapshots of the guest that checks its memory, and their lazy load by the engine into a real QEMU.
 *
 * @module
 */

import { expect } from "vitest";

import { connectSocket, ReadableFile, type SocketChannel } from "../../src/channels/index.js";
import {
  lazyLoadMappedRam,
  type LazyLoadOptions,
  type LazyLoadResult,
  openMappedRam,
  type PreemptChannel,
} from "../../src/engine/index.js";
import {
  type GuestState,
  guestMachine,
  guestState,
  migrationOf,
  setCapabilities,
} from "./migrating-guest.js";
import { type QemuMachine, type QemuVersion, startQemu, type StartQemuOptions } from "./qemu.js";
import { ramportJson } from "./ramport-cli.js";
import type { WorkDir } from "./work-dir.js";

/** A snapshot in a mapped-ram file, and what its guest had said. */
export interface Saved {
  readonly path: string;
  readonly state: GuestState;
}

/** The machine beyond the ordinary one. */
export type ExtraMachine = Partial<Pick<StartQemuOptions, "machine" | "memoryBytes" | "args" | "guestImage">>;

/**
 * A snapshot of the guest that checks its memory; saved by ramport, so that 7.2 has one too.
 *
 * @param ready Resolves when it is to be saved.
 */
export async function saved(
  workDir: WorkDir,
  version: QemuVersion,
  extra: ExtraMachine = {},
  ready: (source: QemuMachine) => Promise<unknown> = (source) => source.waitForPass(2),
): Promise<Saved> {
  const source = await startQemu(guestMachine(workDir.path, { version, ...extra }));
  await ready(source);
  const file = workDir.file("vm.ram");
  await ramportJson(["save", "--qmp", source.qmpPath, file]);
  const state = guestState(source);
  await source.kill();
  return { path: file, state };
}

/** A QEMU that takes a lazy load. */
export class LazyDestination {
  readonly machine: QemuMachine;
  readonly #workDir: WorkDir;
  readonly #early: boolean;
  #sockets = 0;
  #socket = "";

  private constructor(workDir: WorkDir, machine: QemuMachine, version: QemuVersion) {
    this.#workDir = workDir;
    this.machine = machine;
    this.#early = version === "7.2";
  }

  static async start(
    workDir: WorkDir,
    version: QemuVersion,
    capabilities: readonly string[] = [],
    extra: ExtraMachine = {},
  ): Promise<LazyDestination> {
    const machine = await startQemu(guestMachine(workDir.path, { version, incoming: "defer", ...extra }));
    await setCapabilities(machine, "postcopy-ram", ...capabilities);
    return new LazyDestination(workDir, machine, version);
  }

  /** Has it wait at a fresh address, and connects to it. */
  async open(command: "migrate-incoming" | "migrate-recover"): Promise<SocketChannel> {
    this.#socket = this.#workDir.file(`in-${++this.#sockets}`);
    await this.machine.qmp(command, { uri: `unix:${this.#socket}` });
    return this.connect();
  }

  /** One more connection to that address. */
  connect(): Promise<SocketChannel> {
    return connectSocket({ path: this.#socket }, `unix:${this.#socket}`);
  }

  /** Its second connection. */
  get preempt(): PreemptChannel {
    return { connect: () => this.connect(), early: this.#early };
  }

  /** Resolves when its migration is paused. */
  async isPaused(): Promise<void> {
    await expect
      .poll(async () => (await migrationOf(this.machine)).status, { interval: 2 })
      .toBe("postcopy-paused");
  }
}

/** Loads, and gives back what is known of it. */
export async function load(
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
export const SLOW_FILL = { fillBytesPerSecond: () => 8 << 20 };
