import fs from "node:fs";
import path from "node:path";

import type { FileState } from "../file-changes.js";

/** What tells one file from another. */
type FileIdentity = Pick<FileState, "dev" | "ino">;

/**
 * Whether the process that listens at a monitor's socket has a file open: QEMU keeps what it maps open as long as it runs. A path
 * would tell what is there now, and not what was there when it was opened.
 *
 * @param socketPath A Unix socket of a process of this machine.
 * @returns undefined where that cannot be seen: no Linux, another network namespace, or a process that this user may not look into.
 */
export function hasOpened(socketPath: string, file: FileIdentity): boolean | undefined {
  const socket = statOf(socketPath);
  const listeners = socket === undefined ? [] : listenersAt(path.basename(socketPath));
  if (socket === undefined || listeners.length === 0) return undefined;
  let isListenerSeen = false;
  for (const pid of processes()) {
    const open = openFiles(pid);
    const isListener = listeners.some(
      ({ inode, name }) =>
        open.some((each) => each.isSocket() && each.ino === inode) &&
        // Where that process sees it: the name may be one within its folder, or within its root.
        isSame(
          statOf(path.isAbsolute(name) ? `/proc/${pid}/root${name}` : `/proc/${pid}/cwd/${name}`),
          socket,
        ),
    );
    if (isListener && open.some((each) => isSame(each, file))) return true;
    // Whoever made the socket for the QEMU may have kept it.
    isListenerSeen ||= isListener;
  }
  return isListenerSeen ? false : undefined;
}

/** Flag of a socket that connections are accepted at (__SO_ACCEPTCON). */
const ACCEPTS = 0x10000;

/** Sockets that listen at a name, from proc(5)'s table: `Num RefCount Protocol Flags Type St Inode Path`. */
function listenersAt(baseName: string): { readonly inode: bigint; readonly name: string }[] {
  return readText("/proc/net/unix")
    .split("\n")
    .flatMap((line) => {
      const [, flags, inode, name] =
        /^[0-9a-f]+: [0-9a-f]+ [0-9a-f]+ ([0-9a-f]+) [0-9a-f]+ [0-9a-f]+ +(\d+) (.+)$/i.exec(line) ?? [];
      if (flags === undefined || inode === undefined || name === undefined) return [];
      const isListener = (Number.parseInt(flags, 16) & ACCEPTS) !== 0 && path.basename(name) === baseName;
      return isListener ? [{ inode: BigInt(inode), name }] : [];
    });
}

/** All processes; those that are called as QEMUs are come first, as there may be thousands. */
function processes(): number[] {
  const pids = namesIn("/proc").map(Number).filter(Number.isInteger);
  const isLikely = (pid: number): boolean => /qemu|kvm/.test(readText(`/proc/${pid}/comm`));
  const likely = new Set(pids.filter(isLikely));
  return [...likely, ...pids.filter((pid) => !likely.has(pid))];
}

/** What a process has open; nothing for one that ends meanwhile, or that this user may not look into. */
function openFiles(pid: number): fs.BigIntStats[] {
  const folder = `/proc/${pid}/fd`;
  return namesIn(folder).flatMap((name) => statOf(`${folder}/${name}`) ?? []);
}

function isSame(one: FileIdentity | undefined, other: FileIdentity): boolean {
  return one?.ino === other.ino && one.dev === other.dev;
}

function namesIn(folder: string): string[] {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
}

function readText(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function statOf(file: string): fs.BigIntStats | undefined {
  try {
    return fs.statSync(file, { bigint: true });
  } catch {
    return undefined;
  }
}
