import { optionalSystemCalls } from "./system-calls.js";

/** `statx(2)` as Linux declares it; the last argument is a `struct statx` of 256 bytes. */
type Statx = (folder: number, path: string, flags: number, mask: number, result: Uint8Array) => number;

const AT_EMPTY_PATH = 0x1000;
const STATX_DIOALIGN = 0x2000;
const STATX_BYTES = 256;
/** `stx_mask` and `stx_dio_offset_align` of `struct statx`. */
const MASK_OFFSET = 0;
const OFFSET_ALIGN_OFFSET = 0x9c;

/** A page: no file system in use asks for more unless it says so, and smaller pieces are not worth going past the cache. */
const COMMON_ALIGN_BYTES = 4096;
const LARGEST_ALIGN_BYTES = 1 << 20;

const loadStatx = optionalSystemCalls(
  (libc) =>
    libc.func(
      "int statx(int folder, const char *path, int flags, unsigned int mask, _Out_ uint8_t *result)",
    ) as Statx,
);

/**
 * What places and lengths of direct transfers have to be multiples of, in bytes: a power of two, at least 4096.
 *
 * What the file system says counts where it can be asked: Linux 6.1 and newer, with the optional package `koffi`.
 */
export function directAlignment(fd: number): number {
  const statx = loadStatx();
  if (statx === undefined) return COMMON_ALIGN_BYTES;
  const result = new Uint8Array(STATX_BYTES);
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, result) !== 0) return COMMON_ALIGN_BYTES;
  const view = new DataView(result.buffer);
  // Like the kernel's other structures in the order of the processor, which is this one on all that Node runs on Linux.
  if ((view.getUint32(MASK_OFFSET, true) & STATX_DIOALIGN) === 0) return COMMON_ALIGN_BYTES;
  const told = view.getUint32(OFFSET_ALIGN_OFFSET, true);
  const isPowerOfTwo = (told & (told - 1)) === 0;
  return told > COMMON_ALIGN_BYTES && told <= LARGEST_ALIGN_BYTES && isPowerOfTwo ? told : COMMON_ALIGN_BYTES;
}
