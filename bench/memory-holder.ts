/**
 * Holds memory, and gives it up as others take theirs: see `free-memory.ts`.
 *
 * @module
 */

import fs from "node:fs";

import koffi from "koffi";

/** What it is asked for: how much to hold from now on. Its answer, once it does: how much it is. */
export interface HeldMemory {
  readonly bytes: number;
}

const PIECE_BYTES = 64 << 20;
/** Kept free beyond what was free before, so that nobody waits for this process; less than a host is told of at once. */
const HEADROOM_BYTES = 256 << 20;
/** Left to everybody else. */
const REST_BYTES = 2 ** 30;
const INTERVAL_MS = 2;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const MADV_HUGEPAGE = 14;

const libc = koffi.load(null);
const mmap = libc.func(
  "uintptr_t mmap(uintptr_t address, size_t length, int protection, int flags, int fd, long offset)",
);
const munmap = libc.func("int munmap(uintptr_t address, size_t length)");
const madvise = libc.func("int madvise(uintptr_t address, size_t length, int advice)");
const memset = libc.func("uintptr_t memset(uintptr_t to, int value, size_t length)");

const meminfo = fs.openSync("/proc/meminfo", "r");
const text = Buffer.alloc(4096);
const pieces: number[] = [];
/** Bytes that are to be free, as soon as it holds what it was asked for. */
let freeBytes = 0;

function memory(field: "MemFree" | "MemAvailable"): number {
  const length = fs.readSync(meminfo, text, 0, text.length, 0);
  const match = new RegExp(`${field}:\\s+(\\d+) kB`).exec(text.toString("latin1", 0, length));
  return Number(match?.[1]) * 1024;
}

function hold({ bytes }: HeldMemory): HeldMemory {
  while (pieces.length * PIECE_BYTES < bytes && memory("MemAvailable") > REST_BYTES + PIECE_BYTES) {
    const piece = Number(mmap(0, PIECE_BYTES, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
    madvise(piece, PIECE_BYTES, MADV_HUGEPAGE);
    memset(piece, 1, PIECE_BYTES);
    pieces.push(piece);
  }
  freeBytes = memory("MemFree") + HEADROOM_BYTES;
  return { bytes: pieces.length * PIECE_BYTES };
}

function giveUp(): void {
  while (pieces.length > 0 && memory("MemFree") < freeBytes) munmap(pieces.pop(), PIECE_BYTES);
}

setInterval(giveUp, INTERVAL_MS);
process.on("message", (wanted) => process.send?.(hold(wanted as HeldMemory)));
process.on("disconnect", () => process.exit());
