import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { assertSocketPathFits, systemError } from "../channels/index.js";

/**
 * Makes a place for a socket between ramport and one QEMU: a new directory that only its owner may enter. When ramport
 * runs as root and the QEMU does not, the QEMU's user gets it; that user is the owner of the QMP socket.
 *
 * @returns The socket's path, and a function that removes everything.
 * @throws UsageError when the folder for temporary files has too long a path for a socket in it; MachineError `io`.
 */
export function makePrivateSocketPath(qmpPath: string | undefined): { path: string; remove: () => void } {
  // Socket paths are short, so not beside the snapshot. Absolute: QEMU may run in another folder.
  const prefix = path.resolve(os.tmpdir(), "ramport-");
  const socketIn = (directory: string): string => path.join(directory, "migration.sock");
  assertSocketPathFits(socketIn(`${prefix}XXXXXX`), "let TMPDIR name a folder with a shorter path");
  let directory: string | undefined;
  const remove = (): void => {
    if (directory !== undefined) fs.rmSync(directory, { recursive: true, force: true });
  };
  try {
    directory = fs.mkdtempSync(prefix);
    const owner = qmpPath === undefined ? undefined : fs.statSync(qmpPath, { throwIfNoEntry: false });
    if (owner !== undefined && process.getuid?.() === 0 && owner.uid !== 0)
      fs.chownSync(directory, owner.uid, owner.gid);
    return { path: socketIn(directory), remove };
  } catch (cause) {
    remove();
    throw systemError("Making a place for a socket", directory ?? path.dirname(prefix), cause);
  }
}
