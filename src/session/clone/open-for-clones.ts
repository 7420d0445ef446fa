import fs from "node:fs";

import { ReadableFile } from "../../channels/index.js";
import { findStaleBytes, type MappedRamFile, type ProgressListener } from "../../engine/index.js";
import { FormatError, MachineError } from "../../errors/index.js";
import { openForMapping } from "../../snapshot/seal.js";
import { fileChange } from "../file-changes.js";
import type { SnapshotMemory } from "./memory-plan.js";

/** A snapshot whose page areas are a guest's memory as they are. */
export interface SnapshotForClones {
  readonly file: ReadableFile;
  readonly skeleton: MappedRamFile;
  readonly memory: SnapshotMemory;
  /**
   * Makes sure that who opened the path meanwhile has what was checked here; a QEMU opens it by itself, and later.
   *
   * @throws MachineError `io` when there is another file at the path by now, or this one was written to.
   */
  readonly expectUnchanged: () => void;
}

/** How to open it. */
export interface OpenForClonesOptions {
  /** Where the snapshot begins in the file, in bytes. */
  readonly offset?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  readonly onMessage?: (message: string) => void;
}

/**
 * Opens a snapshot for clones. That it is sealed is seen from the file itself, each time: a mark could be out of date.
 *
 * @throws FormatError when it is damaged, cannot be mapped, or holds old bytes of zero pages; MachineError `io`; CancelledError.
 */
export async function openForClones(path: string, options: OpenForClonesOptions): Promise<SnapshotForClones> {
  const { offset, onMessage } = options;
  // QEMU may run in another folder, and a link may lead elsewhere tomorrow.
  const file = ReadableFile.open(path);
  try {
    const opened = fs.fstatSync(file.fd, { bigint: true });
    const skeleton = openForMapping(file, offset === undefined ? {} : { offset });
    const seal = `run: ramport seal ${path}`;
    const stale = await findStaleBytes(file, skeleton, options);
    if (stale !== undefined) {
      throw new FormatError(
        "unsupported",
        `${path} holds old bytes of pages that are zero now, which its clones would see`,
        { ...stale, path, hint: seal },
      );
    }
    if ((fs.fstatSync(file.fd).mode & 0o222) !== 0)
      onMessage?.(`${path} can be written to, which would change its clones under way; ${seal}`);
    const memory = memoryOf(file, skeleton);
    const expectUnchanged = (): void => {
      const stats = fs.statSync(memory.path, { bigint: true, throwIfNoEntry: false });
      if (fileChange(opened, stats) === "none") return;
      throw new MachineError("io", `${path} was replaced or written to while it was cloned`, {
        path,
        hint: "clone it again, and keep it as it is meanwhile",
      });
    };
    return { file, skeleton, memory, expectUnchanged };
  } catch (error) {
    file.close();
    throw error;
  }
}

function memoryOf(file: ReadableFile, { configuration, blocks }: MappedRamFile): SnapshotMemory {
  return {
    path: fs.realpathSync(file.absolutePath),
    machine: configuration.machine,
    blocks: blocks.map(({ name, usedLength, mapped }) => ({
      name,
      usedLength,
      ...(mapped === undefined ? {} : { pagesOffset: mapped.pagesOffset }),
    })),
  };
}
