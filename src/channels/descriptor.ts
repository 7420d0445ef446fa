import fs from "node:fs";
import net from "node:net";
import { isatty } from "node:tty";

import { MachineError, UsageError } from "../errors/index.js";
import type { ByteChannel } from "./byte-stream.js";
import type { DirectIo } from "./direct-io.js";
import { InPlaceFile } from "./in-place-file.js";
import type { FileAccess } from "./positioned-io.js";
import { SequentialFile } from "./sequential-file.js";
import { SocketChannel } from "./socket.js";
import { systemError } from "./system-error.js";
import type { SecureSocket } from "./tls.js";

/** What a migration does with a descriptor. */
export type DescriptorUse = "read" | "write";

/** A descriptor as a channel. */
export interface DescriptorChannel {
  readonly channel: ByteChannel;
  /** Whether the other direction belongs to the same connection. */
  readonly bothWays: boolean;
  /** The same, when it is a file that has places. */
  readonly file?: InPlaceFile;
}

/** What the kernel says of an open descriptor. */
export interface DescriptorStatus {
  /** Its own place in the file, in bytes. */
  readonly position: number;
  readonly access: FileAccess;
  /** Every write goes to the end of the file, whatever place it names. */
  readonly appends: boolean;
  /** Opened with O_DIRECT: it takes aligned transfers only. */
  readonly isDirect: boolean;
}

/** The bits of the open flags that say what a descriptor is for; Node has no name for them. */
const O_ACCMODE = 3;
const ACCESS: readonly FileAccess[] = ["read", "write", "both"];

/**
 * Asks the kernel what a descriptor was opened for and where it stands.
 *
 * @returns undefined where there is no `/proc`, or no such descriptor.
 */
export function descriptorStatus(fd: number): DescriptorStatus | undefined {
  let text: string;
  try {
    text = fs.readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
  } catch {
    return undefined;
  }
  const position = Number(/^pos:\s*(\d+)$/m.exec(text)?.[1]);
  const flags = Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(text)?.[1] ?? "", 8);
  const access = ACCESS[flags & O_ACCMODE];
  if (!Number.isSafeInteger(position) || Number.isNaN(flags) || access === undefined) return undefined;
  const { O_APPEND, O_DIRECT = 0 } = fs.constants as {
    readonly O_APPEND: number;
    readonly O_DIRECT?: number;
  };
  return { position, access, appends: (flags & O_APPEND) !== 0, isDirect: (flags & O_DIRECT) !== 0 };
}

/**
 * Makes a channel of a descriptor that the process was started with or was given; the channel owns it.
 *
 * @param name What it is called in errors.
 * @throws MachineError `io` when it is not open or a directory; UsageError for a terminal, and for one that was opened for
 *   the other direction.
 */
export function openDescriptor(
  fd: number,
  name: string,
  use: DescriptorUse,
  directIo: DirectIo = "off",
): DescriptorChannel {
  const stats = descriptorStats(fd, name);
  if (stats.isDirectory()) throw new MachineError("io", `${name} is a directory`, { path: name });
  if (isatty(fd)) {
    throw new UsageError(`A migration stream is no text for a terminal, and ${name} is one`, {
      hint: use === "read" ? "pipe a stream into it" : "pipe it on, or redirect it into a file",
    });
  }
  if (stats.isSocket()) {
    const channel = new SocketChannel(new net.Socket({ fd, allowHalfOpen: true }), name);
    return { channel, bothWays: true };
  }
  if (stats.isFIFO()) {
    // Not through fs.read and fs.write: one of those that waits for the other side cannot be cancelled, and the process
    // does not end before it has.
    const pipe = new net.Socket({ fd, readable: use === "read", writable: use === "write" });
    return { channel: new SocketChannel(pipe, name), bothWays: false };
  }
  const status = descriptorStatus(fd);
  if (status !== undefined && !fits(status.access, use)) {
    throw new UsageError(`${name} is open for ${status.access === "read" ? "reading" : "writing"} only`, {
      path: name,
      hint: `open it for ${use === "read" ? "reading" : "writing"}`,
    });
  }
  if (stats.isFile() && status !== undefined && !(status.appends && use === "write")) {
    const { access, position: startOffset } = status;
    const file = new InPlaceFile(name, fd, { startOffset, access, sharesPlace: true, directIo });
    return { channel: file, bothWays: false, file };
  }
  // Character devices cannot be synced.
  const syncAtEnd = use === "write" && (stats.isFile() || stats.isBlockDevice());
  return { channel: new SequentialFile(name, fd, undefined, { syncAtEnd }), bothWays: false };
}

/**
 * Makes a channel with TLS of a descriptor that is a connected socket.
 *
 * @throws As {@link openDescriptor}, and UsageError for one that is no socket; what the handshake throws.
 */
export async function openSecureDescriptor(
  fd: number,
  name: string,
  secure: SecureSocket,
  signal: AbortSignal | undefined,
): Promise<SocketChannel> {
  if (!descriptorStats(fd, name).isSocket())
    throw new UsageError(`${name} is no socket: ${TLS_NEEDS_SOCKET}`);
  return new SocketChannel(await secure(new net.Socket({ fd, allowHalfOpen: true }), signal), name);
}

/** Why a migration cannot have TLS. */
export const TLS_NEEDS_SOCKET = "TLS needs a connection that goes both ways";

/** Descriptors that a management program passed in, by the number of their set: QEMU's `add-fd`. */
export type DescriptorSets = ReadonlyMap<number, readonly number[]>;

const DESCRIPTOR_SET = "/dev/fdset/";

/** Descriptors that a path stands for. */
export interface SetDescriptors {
  /** For everything: not open with O_DIRECT. */
  readonly fd: number;
  /** Open with O_DIRECT, for what is large and aligned. Only where it is asked for. */
  readonly directFd?: number;
}

/**
 * Finds the descriptors that a path of the form `/dev/fdset/N` stands for: the first of the set that was opened for
 * exactly this use, as QEMU takes it, or else for both. With direct I/O two are needed, which QEMU tells apart by
 * O_DIRECT: duplicates of one share its flags. They stay the caller's, who must keep them open meanwhile.
 *
 * @param directIo With `auto`, a set that has no descriptor with O_DIRECT is used without.
 * @returns undefined for every other path.
 * @throws UsageError when there is no such set, or nothing in it fits; MachineError `io` for one that is not open.
 */
export function descriptorFromSet(
  path: string,
  use: DescriptorUse,
  sets: DescriptorSets | undefined,
  directIo: DirectIo = "off",
): SetDescriptors | undefined {
  if (!path.startsWith(DESCRIPTOR_SET)) return undefined;
  const number = path.slice(DESCRIPTOR_SET.length);
  const set = /^\d{1,15}$/.test(number) ? sets?.get(Number(number)) : undefined;
  if (set === undefined) {
    throw new UsageError(`There is no descriptor set ${path}`, { path, hint: "add one with add-fd first" });
  }
  const candidates = set.map((fd) => {
    descriptorStats(fd, `${path} (descriptor ${fd})`);
    // Where nothing says what it was opened for, trying tells.
    const { access = use, isDirect = false } = descriptorStatus(fd) ?? {};
    return { fd, access, isDirect };
  });
  const [verb, flag] = use === "read" ? ["reading", "O_RDONLY"] : ["writing", "O_WRONLY"];
  const fitting = firstFor(
    use,
    candidates.filter(({ isDirect }) => !isDirect),
  );
  if (fitting === undefined) {
    const hint = `add one that was opened with ${flag}`;
    throw new UsageError(`No descriptor in ${path} is open for ${verb}`, { path, hint });
  }
  if (directIo === "off") return { fd: fitting.fd };
  const direct = firstFor(
    use,
    candidates.filter(({ isDirect }) => isDirect),
  );
  if (direct !== undefined) return { fd: fitting.fd, directFd: direct.fd };
  if (directIo === "auto") return { fd: fitting.fd };
  throw new UsageError(`No descriptor in ${path} is open for ${verb} with O_DIRECT`, {
    path,
    hint: `add a second one that was opened with ${flag} and O_DIRECT, or turn direct I/O off`,
  });
}

function firstFor(
  use: DescriptorUse,
  candidates: readonly { readonly fd: number; readonly access: FileAccess }[],
): { readonly fd: number } | undefined {
  return (
    candidates.find(({ access }) => access === use) ?? candidates.find(({ access }) => access === "both")
  );
}

function descriptorStats(fd: number, name: string): fs.Stats {
  try {
    return fs.fstatSync(fd);
  } catch (cause) {
    throw systemError("Opening", name, cause);
  }
}

function fits(access: FileAccess, use: DescriptorUse): boolean {
  return access === "both" || access === use;
}
