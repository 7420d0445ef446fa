import { MachineError, UsageError } from "../errors/index.js";

const sentences: Readonly<Record<string, string>> = {
  ENOENT: "does not exist",
  EACCES: "may not be accessed by this user",
  EPERM: "may not be accessed by this user",
  EISDIR: "is a directory",
  ENOTDIR: "has a part that is no directory",
  ENOSPC: "cannot grow: no space is left on the device",
  EDQUOT: "cannot grow: the quota is used up",
  EROFS: "is on a read-only file system",
  ECONNREFUSED: "has nobody listening",
  EADDRINUSE: "is in use already",
  EEXIST: "exists already",
  EBADF: "is no open descriptor",
  ENOTFOUND: "is a host that cannot be found",
  EAI_AGAIN: "is a host that cannot be looked up now",
  ETXTBSY: "is in use",
  EFBIG: "would become larger than its file system allows",
};

/** Turns a failed system call on `path` into one sentence; the system's error becomes the cause. */
export function systemError(action: string, path: string, cause: unknown): MachineError | UsageError {
  if (cause instanceof MachineError || cause instanceof UsageError) return cause;
  const code = errnoCode(cause);
  if (code === "EPIPE" || code === "ECONNRESET") {
    return new MachineError(
      "connection-closed",
      `${action} failed: the other side closed ${path}`,
      { path },
      cause,
    );
  }
  if (code?.startsWith("ERR_SSL_") === true) {
    const what = code
      .replace(/^ERR_SSL_/, "")
      .replaceAll("_", " ")
      .toLowerCase();
    return new MachineError("tls", `${action} failed: TLS with ${path} broke off: ${what}`, { path }, cause);
  }
  const why = (code === undefined ? undefined : sentences[code]) ?? `failed with ${code ?? String(cause)}`;
  return new MachineError("io", `${action} failed: ${path} ${why}`, { path }, cause);
}

/** The system's name for an error (`ENOENT`), if it is one of the system's. */
export function errnoCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
