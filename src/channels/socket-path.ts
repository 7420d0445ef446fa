import fs from "node:fs";
import path from "node:path";
import process from "node:process";

import { MachineError, UsageError } from "../errors/index.js";
import { errnoCode, systemError } from "./system-error.js";

/** `sun_path` holds 108 bytes with the final zero; Node and the kernel cut longer ones, or refuse them vaguely. */
const LONGEST_SOCKET_PATH = 107;
/** `O_PATH`, which Node has no name for: a handle on what stands at a path, whatever it is. */
const O_PATH = 0o10_000_000;

/**
 * Checks that a Unix socket can have this path.
 *
 * @param hint What to do when it is too long.
 * @throws UsageError when it is too long.
 */
export function assertSocketPathFits(
  socketPath: string,
  hint = "use a relative path or a symbolic link to the directory",
): void {
  const length = Buffer.byteLength(socketPath);
  if (length <= LONGEST_SOCKET_PATH) return;
  throw new UsageError("The path is too long for a Unix socket", {
    path: socketPath,
    expected: `at most ${LONGEST_SOCKET_PATH} bytes`,
    actual: `${length} bytes`,
    hint,
  });
}

/**
 * Turns what listening failed with into one sentence.
 *
 * @param socketPath Of a Unix socket: Node says EACCES where its folder does not exist.
 */
export function listeningError(
  name: string,
  socketPath: string | undefined,
  cause: unknown,
): MachineError | UsageError {
  if (socketPath !== undefined && errnoCode(cause) === "EACCES") {
    const folder = path.dirname(path.resolve(socketPath));
    if (!fs.existsSync(folder))
      return new MachineError(
        "io",
        `Listening failed: the folder of ${name} does not exist`,
        { path: socketPath },
        cause,
      );
  }
  return systemError("Listening", name, cause);
}

/**
 * Lets the owner of a private directory connect to the socket that this process made there as root: connecting needs
 * write permission on the socket, which the usual umask leaves to root alone. Elsewhere nothing changes.
 *
 * @throws MachineError `io`.
 */
export function shareWithDirectoryOwner(socketPath: string): void {
  const uid = process.getuid?.();
  if (uid !== 0 || process.platform !== "linux") return;
  let handle: number | undefined;
  try {
    const directory = fs.statSync(path.dirname(path.resolve(socketPath)));
    // Private means that nobody else could get here anyway.
    if (directory.uid === uid || (directory.mode & 0o077) !== 0) return;
    // By a handle: the directory's owner may have put something else at the path meanwhile.
    handle = fs.openSync(socketPath, O_PATH | fs.constants.O_NOFOLLOW);
    const stats = fs.fstatSync(handle);
    if (stats.isSocket() && stats.uid === uid && stats.nlink === 1)
      fs.chownSync(`/proc/self/fd/${handle}`, directory.uid, directory.gid);
  } catch (cause) {
    throw systemError("Sharing", socketPath, cause);
  } finally {
    if (handle !== undefined) fs.closeSync(handle);
  }
}
