/**
 * Lazy restore by the engine into a real QEMU, with a relay in between that can cut the connections.
 *
 * @module
 */

import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";

import { openOutgoing, ReadableFile } from "../../src/channels/index.js";
import {
  lazyLoadMappedRam,
  type LazyLoadOptions,
  type LazyLoadResult,
  openMappedRam,
} from "../../src/engine/index.js";
import { CuttingRelay } from "./cutting-relay.js";
import type { MemorySnapshot } from "./memory-guest.js";
import { migrationOf, setCapabilities } from "./migrating-guest.js";
import type { QemuMachine } from "./qemu.js";

const LIMIT_MS = 60_000;

/** How to do it. */
export interface LazyRestore {
  readonly destination: QemuMachine;
  readonly snapshot: MemorySnapshot;
  /** Start of the sockets' paths. */
  readonly socketPath: string;
  readonly preempt?: boolean;
  readonly options?: Omit<LazyLoadOptions, "preempt" | "reconnect">;
  /** Called with each connection that is made, from the first one on: when to cut it is said there. */
  readonly onConnection?: (relay: CuttingRelay) => void;
}

/** Runs the snapshot's guest at once, and returns when all of its memory is there. */
export async function restoreLazily(restore: LazyRestore): Promise<LazyLoadResult> {
  const { destination, snapshot, socketPath, preempt = false, onConnection } = restore;
  await setCapabilities(destination, "events", "postcopy-ram", ...(preempt ? ["postcopy-preempt"] : []));
  let attempts = 0;
  const nextSocket = (): string => `${socketPath}-${++attempts}`;
  const first = nextSocket();
  await destination.qmp("migrate-incoming", { uri: `unix:${first}` });
  const relayPath = `${socketPath}-relay`;
  const relay = await CuttingRelay.listen(relayPath, first);
  const connect = (): ReturnType<typeof openOutgoing> => openOutgoing({ kind: "unix", path: relayPath });
  const connectMain = async (): Promise<Parameters<typeof lazyLoadMappedRam>[2]> => {
    const { sink, returnPath } = await connect();
    if (returnPath === undefined) throw new Error("a socket has two directions");
    onConnection?.(relay);
    return { main: sink, returnPath };
  };
  const file = ReadableFile.open(snapshot.path);
  try {
    return await lazyLoadMappedRam(file, openMappedRam(file, 0), await connectMain(), {
      ...restore.options,
      ...(preempt
        ? { preempt: { connect: async () => (await connect()).sink, early: destination.version === "7.2" } }
        : {}),
      reconnect: async () => {
        if ((await pausedOrCompleted(destination)) === "completed") return "completed";
        const socket = nextSocket();
        await destination.qmp("migrate-recover", { uri: `unix:${socket}` });
        relay.redirect(socket);
        return connectMain();
      },
    });
  } finally {
    file.close();
    await relay.close();
  }
}

/** A destination notices after the source that their connection is gone. */
async function pausedOrCompleted(destination: QemuMachine): Promise<string> {
  const limit = Date.now() + LIMIT_MS;
  for (;;) {
    const { status } = await migrationOf(destination);
    if (status === "postcopy-paused" || status === "completed") return status;
    expect(["active", "postcopy-active", "postcopy-recover", "device"]).toContain(status);
    expect(Date.now(), `the destination pauses, but is ${status}`).toBeLessThan(limit);
    await sleep(2);
  }
}
