import { randomPageHashKey } from "./page-hash-key.js";
import { PageHashKernel } from "./page-hash-kernel.js";
import { PageHashTwin } from "./page-hash-twin.js";
import type { PageHasher } from "./page-hasher.js";

/** As much as stays in a core's own cache between copying and hashing. */
const STAGING_BYTES = 256 << 10;

/**
 * A hasher with a new random key: the kernel, or its twin where WebAssembly is forbidden or has no SIMD.
 *
 * @param pageSize Bytes: a multiple of 32.
 */
export function createPageHasher(pageSize: number): PageHasher {
  const key = randomPageHashKey(pageSize);
  const stagingBytes = Math.max(1, Math.floor(STAGING_BYTES / pageSize)) * pageSize;
  return PageHashKernel.start(pageSize, key, stagingBytes) ?? new PageHashTwin(pageSize, key, stagingBytes);
}
