import fs from "node:fs";
import nodePath from "node:path";

import { MachineError, throwIfAborted } from "../errors/index.js";
import type { QmpClient } from "../qmp/index.js";
import { openSnapshot } from "../snapshot/index.js";
import { fileChange, type FileState } from "./file-changes.js";
import { LazyRestore } from "./lazy-restore.js";
import { Monitor } from "./lazy-monitor.js";
import type { LazyRestoreOptions, LazyRestoreResult } from "./lazy-options.js";
import { checkTls } from "./qemu-tls.js";

/**
 * Restores a snapshot into a QEMU that was started with `-incoming defer`, so that its guest runs at once and asks for its
 * memory, while all the rest is sent meanwhile. Returns when the guest has all of it: until then the file must stay as it is,
 * and this process must run.
 *
 * A QEMU whose restore from the same snapshot was broken off, by a crash for example, is taken up where it stands.
 *
 * @param path A mapped-ram file, a classic stream, or an image of libvirt's with either.
 * @throws FormatError for a damaged file, or one that QEMU cannot load so; MachineError, `io` also for a file that was written to
 *   meanwhile: the guest then has all of its memory, and wrong pages among it; UsageError; CancelledError: a guest
 *   that runs already waits for its pages from then on, and the same call goes on with it.
 */
export async function restoreVmLazily(
  qmp: QmpClient,
  path: string,
  options: LazyRestoreOptions = {},
): Promise<LazyRestoreResult> {
  throwIfAborted(options.signal);
  checkTls(options.tls, "client");
  const { streamOffset, signal, onProgress } = options;
  const absolutePath = nodePath.resolve(path);
  // Opening reads all of a stream. What is not there, or no file, is told of there.
  const atFirst = fs.statSync(absolutePath, { bigint: true, throwIfNoEntry: false });
  const snapshot = await openSnapshot(path, {
    ...(streamOffset === undefined ? {} : { offset: streamOffset }),
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined ? {} : { onProgress }),
  });
  const monitor = new Monitor(qmp, options.reconnect, options.onMessage);
  try {
    const before = atFirst ?? fs.statSync(absolutePath, { bigint: true });
    const result = await new LazyRestore(
      monitor,
      { path: absolutePath, file: before },
      snapshot,
      options,
    ).run();
    expectUnchanged(absolutePath, before);
    return result;
  } finally {
    snapshot.close();
    await monitor.close();
  }
}

/** Pages that are sent one after the other are one guest's only if the file stays as it is. Another one may take its name. */
function expectUnchanged(path: string, before: FileState): void {
  const after = fs.statSync(path, { bigint: true, throwIfNoEntry: false });
  if (fileChange(before, after) !== "written") return;
  throw new MachineError("io", `${path} was written to while the guest's memory came from it`, {
    path,
    hint: "the guest may have wrong pages: end it, and restore it anew from a file that stays as it is",
  });
}
