import fs from "node:fs";

import { type MigrationUri, openOutgoing } from "../../channels/index.js";
import { type ProgressListener, sendMappedRam } from "../../engine/index.js";
import { MachineError, throwIfAborted } from "../../errors/index.js";
import type { QmpClient } from "../../qmp/index.js";
import { makePrivateSocketPath } from "../private-socket.js";
import { checkVersion } from "./ask-qemu.js";
import { isSameFile, loadClone, type LoadCloneOptions, prepareClone } from "./load-clone.js";
import type { MappedBlock, SnapshotMemory } from "./memory-plan.js";
import { hasOpened } from "./opened-file.js";
import { openForClones, type SnapshotForClones } from "./open-for-clones.js";

/** How to bring a QEMU the rest of a snapshot that it maps. */
export interface RestoreCloneOptions extends LoadCloneOptions {
  /** Where the snapshot begins in the file, in bytes. */
  readonly offset?: number;
  /**
   * Path of the QMP socket, when that is how QMP is reached: its owner is whom QEMU runs as, and who listens there is asked which
   * file it has opened. Without it only the file's path is compared.
   */
  readonly qmpPath?: string;
  readonly onProgress?: ProgressListener;
  /** Called with a sentence for the user when something noteworthy happens. */
  readonly onMessage?: (message: string) => void;
}

/** A QEMU that is a clone now. */
export interface RestoreCloneResult {
  readonly machine: string;
  readonly ramBytes: number;
  /** Of it, what the QEMU maps from the snapshot. */
  readonly mappedBytes: number;
  readonly residualBytes: number;
  readonly guest: "running" | "paused";
  /** From the request to load until the guest runs. */
  readonly restoreMs: number;
}

/**
 * Makes a clone of a QEMU that was started with the arguments that planClone gives, and `-incoming defer` instead of its residual
 * stream: what it maps of the snapshot is found by asking it.
 *
 * @throws MachineError `not-capable` when the QEMU does not wait for a migration, is older than 8.2, maps nothing of this
 *   snapshot, or another file that was at its path before; `migration-failed`; FormatError for a damaged snapshot, and for one that is not sealed; CancelledError: the QEMU is
 *   then of no use any more.
 */
export async function restoreClone(
  qmp: QmpClient,
  path: string,
  options: RestoreCloneOptions = {},
): Promise<RestoreCloneResult> {
  const { signal, qmpPath } = options;
  throwIfAborted(signal);
  checkVersion(qmp.version);
  const snapshot = await openForClones(path, options);
  try {
    const { status } = await qmp.execute("query-status");
    if (status !== "inmigrate") {
      const message = `This QEMU does not wait for a migration: its guest is ${status}`;
      throw new MachineError("not-capable", message, { hint: "start it with -incoming defer" });
    }
    const { memory, skeleton } = snapshot;
    const mapped = await findMappedBlocks(qmp, memory);
    await prepareClone({ qmp, mapped, snapshotPath: memory.path }, options);
    expectOpened(snapshot, qmpPath);
    snapshot.expectUnchanged();
    const socket = makePrivateSocketPath(qmpPath);
    try {
      const uri = { kind: "unix", path: socket.path } as const;
      let residualBytes = 0;
      const send = async (): Promise<void> => {
        residualBytes = await sendResidual(snapshot, mapped, uri, signal);
      };
      const loaded = await loadClone(qmp, { uri, send }, options);
      return {
        machine: skeleton.configuration.machine,
        ramBytes: skeleton.totalBytes,
        mappedBytes: mapped.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
        residualBytes,
        ...loaded,
      };
    } finally {
      socket.remove();
    }
  } finally {
    snapshot.file.close();
  }
}

/**
 * The memory backends name a path. Another file may have taken that name over since the QEMU opened the one that was there, and
 * devices of one moment with memory of another are silent corruption.
 */
function expectOpened({ file, memory: { path } }: SnapshotForClones, qmpPath: string | undefined): void {
  if (qmpPath === undefined || hasOpened(qmpPath, fs.fstatSync(file.fd, { bigint: true })) !== false) return;
  throw new MachineError(
    "not-capable",
    `This QEMU has mapped another file than the one that is at ${path} now`,
    {
      path,
      hint: "start the QEMU anew; a snapshot that takes over the name of another one is another snapshot",
    },
  );
}

async function sendResidual(
  { file, skeleton }: SnapshotForClones,
  mapped: readonly MappedBlock[],
  uri: MigrationUri,
  signal: AbortSignal | undefined,
): Promise<number> {
  const limits = signal === undefined ? {} : { signal };
  const { sink } = await openOutgoing(uri, limits);
  try {
    const mappedBlocks = new Set(mapped.map(({ block }) => block));
    return (await sendMappedRam(file, skeleton, sink, { mappedBlocks, ...limits })).sentBytes;
  } finally {
    await sink.close();
  }
}

/**
 * Which blocks a QEMU maps from the snapshot, by its memory backends.
 *
 * @throws MachineError `not-capable` when there are none.
 */
async function findMappedBlocks(qmp: QmpClient, { path, blocks }: SnapshotMemory): Promise<MappedBlock[]> {
  const objects = await qmp.execute("qom-list", { path: "/objects" });
  const backends = objects.filter(({ type }) => type === "child<memory-backend-file>");
  const found = await Promise.all(
    backends.map(async ({ name: id }): Promise<MappedBlock[]> => {
      const get = (property: string): Promise<unknown> =>
        qmp.execute("qom-get", { path: `/objects/${id}`, property });
      const [memPath, isPathName] = await Promise.all([
        get("mem-path"),
        get("x-use-canonical-path-for-ramblock-id"),
      ]);
      if (typeof memPath !== "string" || !isSameFile(memPath, path)) return [];
      const name = isPathName === true ? `/objects/${id}` : id;
      const block = blocks.find((each) => each.name === name);
      if (block?.pagesOffset === undefined) return [];
      return [{ id, block: name, offset: block.pagesOffset, sizeBytes: block.usedLength }];
    }),
  );
  const mapped = found.flat();
  if (mapped.length > 0) return mapped;
  throw new MachineError("not-capable", "None of this QEMU's memory is the snapshot", {
    path,
    hint: "start it with the arguments that ramport clone --print gives, or let ramport clone start it",
  });
}
