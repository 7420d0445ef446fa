import { createRequire } from "node:module";
import process from "node:process";

/** `sendfile(2)` as Linux declares it; the offset is a list of one that the call changes. */
type SendfileCall = (out: number, input: number, offset: [number], count: number) => number | bigint;

interface SendfileBinding {
  readonly sendfile: SendfileCall;
  readonly errno: () => number;
  readonly EAGAIN: number;
}

let binding: SendfileBinding | null | undefined;

/** Whether {@link sendFile} can be had: on Linux, with the optional package `koffi`. */
export function canSendFile(): boolean {
  binding ??= loadSendfile();
  return binding !== null;
}

/**
 * Hands a part of a file from the page cache to a socket, without bringing it into this process.
 *
 * @param socketFd A socket that does not block.
 * @returns How many bytes the socket took: 0 when it is full, or at the end of the file.
 * @throws Error with the system's number as `errno`, as Node's own have it.
 */
export function sendFile(socketFd: number, fileFd: number, position: number, length: number): number {
  binding ??= loadSendfile();
  if (binding === null) return 0;
  const sent = Number(binding.sendfile(socketFd, fileFd, [position], length));
  if (sent >= 0) return sent;
  const errno = binding.errno();
  if (errno === binding.EAGAIN) return 0;
  throw Object.assign(new Error(`sendfile failed with ${errno}`), { errno: -errno });
}

function loadSendfile(): SendfileBinding | null {
  if (process.platform !== "linux") return null;
  try {
    // Loaded on first use and without await: it is optional, and callers work synchronously.
    const koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
    const call = koffi
      .load(null)
      .func("int64_t sendfile(int out, int in, _Inout_ int64_t *off, size_t count)");
    return {
      sendfile: call as unknown as SendfileCall,
      errno: () => koffi.errno(),
      EAGAIN: koffi.os.errno.EAGAIN ?? 11,
    };
  } catch {
    return null;
  }
}
