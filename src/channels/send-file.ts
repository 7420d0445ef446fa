import { optionalSystemCalls } from "./system-calls.js";

/** `sendfile(2)` as Linux declares it; the offset is a list of one that the call changes. */
type SendfileCall = (out: number, input: number, offset: [number], count: number) => number | bigint;

interface SendfileBinding {
  readonly sendfile: SendfileCall;
  readonly errno: () => number;
  readonly EAGAIN: number;
}

const binding = optionalSystemCalls((libc, koffi): SendfileBinding => ({
  sendfile: libc.func("int64_t sendfile(int out, int in, _Inout_ int64_t *off, size_t count)"),
  errno: () => koffi.errno(),
  EAGAIN: koffi.os.errno.EAGAIN ?? 11,
}));

/** Whether {@link sendFile} can be had: on Linux, with the optional package `koffi`. */
export function canSendFile(): boolean {
  return binding() !== undefined;
}

/**
 * Hands a part of a file from the page cache to a socket, without bringing it into this process.
 *
 * @param socketFd A socket that does not block.
 * @returns How many bytes the socket took: 0 when it is full, or at the end of the file.
 * @throws Error with the system's number as `errno`, as Node's own have it.
 */
export function sendFile(socketFd: number, fileFd: number, position: number, length: number): number {
  const system = binding();
  if (system === undefined) return 0;
  const sent = Number(system.sendfile(socketFd, fileFd, [position], length));
  if (sent >= 0) return sent;
  const errno = system.errno();
  if (errno === system.EAGAIN) return 0;
  throw Object.assign(new Error(`sendfile failed with ${errno}`), { errno: -errno });
}
