import type { BigIntStats } from "node:fs";

/** What happened at a path: nothing, somebody wrote to the file, or another file is there, or none. */
export type FileChange = "none" | "written" | "replaced";

/** What tells a file from others, and its content from a later one; changes of its mode are none. */
export type FileState = Pick<BigIntStats, "dev" | "ino" | "mtimeNs" | "size">;

/** Compares what was at a path with what is there now; undefined where there is nothing. */
export function fileChange(before: FileState, now: FileState | undefined): FileChange {
  if (now?.ino !== before.ino || now.dev !== before.dev) return "replaced";
  return now.mtimeNs === before.mtimeNs && now.size === before.size ? "none" : "written";
}
