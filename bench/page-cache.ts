import { spawnSync } from "node:child_process";
import fs from "node:fs";

import { holdFreeMemory } from "./free-memory.js";

/** Whether inputs are in the page cache when a row begins. */
export type CacheState = "warm" | "cold";

const DROP_CACHES = "/proc/sys/vm/drop_caches";
/** So much of a file may stay. */
const REST_BYTES = 1 << 20;

/** What {@link settle} needs to know. */
interface SettledPlace {
  /** As much as a row writes, to files or to memory. */
  readonly dataBytes: number;
  readonly cache: CacheState;
}

/** Room for processes beside what they write. */
const BESIDE_BYTES = 512 << 20;

/** Call it before anything is measured: free memory is at hand afterwards, and the inputs are in the page cache or not. */
export async function settle({ dataBytes, cache }: SettledPlace, inputs: readonly string[]): Promise<void> {
  if (cache === "cold") dropFromCache(inputs);
  // What is read takes as much memory as what is written from it.
  await holdFreeMemory(BESIDE_BYTES + (cache === "cold" ? 2 : 1) * dataBytes);
}

/**
 * Takes files out of the page cache. They must have been synced: what is not on the disk yet stays.
 *
 * @throws Error when it is not possible.
 */
export function dropFromCache(files: readonly string[]): void {
  for (const file of files) {
    // GNU dd advises the kernel that the whole file is of no use any more (POSIX_FADV_DONTNEED), and reads nothing.
    spawnSync("dd", [`if=${file}`, "iflag=nocache", "count=0", "status=none"]);
  }
  if (files.every((file) => (cachedBytes(file) ?? Infinity) <= REST_BYTES)) return;
  spawnSync("sync");
  fs.writeFileSync(DROP_CACHES, "3");
}

/** Why files cannot be taken out of the page cache here; undefined when they can. */
export function whyNeverCold(sample: string): string | undefined {
  try {
    dropFromCache([sample]);
  } catch {
    return `the page cache cannot be emptied: neither dd (POSIX_FADV_DONTNEED) nor ${DROP_CACHES} does it`;
  }
  const rest = cachedBytes(sample);
  return rest === undefined || rest <= REST_BYTES ? undefined : "the inputs stay in the page cache";
}

/** How much of a file is in the page cache; undefined when nobody can say. */
function cachedBytes(file: string): number | undefined {
  const { status, stdout } = spawnSync("fincore", ["--bytes", "--noheadings", "--output", "RES", file], {
    encoding: "utf8",
  });
  return status === 0 ? Number(stdout) : undefined;
}
