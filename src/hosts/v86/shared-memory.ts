import fs from "node:fs";
import process from "node:process";

import { errnoCode, systemError } from "../../channels/index.js";
import { writeAllAt } from "../../channels/positioned-io.js";
import { loadKoffi } from "../../channels/system-calls.js";
import { assert, MachineError, UsageError } from "../../errors/index.js";
import type { V86Cpu } from "./internals.js";

/** A file that holds a guest's RAM, for machines that hand it over instead of sending it (`x-ignore-shared`). */
export interface SharedMemoryOptions {
  readonly path: string;
  /** Whether the guest's RAM is what the file holds (a machine that waits for a migration) or is put into it. */
  readonly use: "take" | "fill";
}

/** `mmap(2)` and a function that returns its first argument as a number, which is how a view tells its address. */
interface MappingCalls {
  mmap(at: number, length: number, protection: number, flags: number, fd: number, offset: number): number;
  memmove(to: Uint8Array, from: Uint8Array, length: number): number;
}

const PROT_READ = 0x1;
const PROT_WRITE = 0x2;
const MAP_SHARED = 0x01;
const MAP_FIXED = 0x10;
const PAGE_SIZE = 4096;
/** What a 32-bit WebAssembly memory can grow to. */
const ADDRESS_SPACE_BYTES = 2 ** 32;

/**
 * Maps a file over the guest RAM inside v86's WebAssembly memory: from then on the file's content is the guest's memory,
 * for every process that does the same.
 *
 * That is sound as long as the memory stays where it is. V8 takes the whole address space of a memory at once and makes
 * more of it usable when it grows, so nothing moves, except where address space is limited (`ulimit -v`). The kernel's
 * list of mappings tells which one it is, and {@link SharedMemory.check} looks again whenever the memory has grown.
 */
export class SharedMemory {
  readonly #cpu: V86Cpu;
  readonly #calls: MappingCalls;
  readonly #address: number;
  #buffer: ArrayBufferLike;

  private constructor(cpu: V86Cpu, calls: MappingCalls, address: number) {
    this.#cpu = cpu;
    this.#calls = calls;
    this.#address = address;
    this.#buffer = cpu.wasm_memory.buffer;
  }

  /**
   * @throws UsageError when the file has another size than the guest's RAM; MachineError `io`, or `not-capable` without
   *   the optional package `koffi`, on another system than Linux, or where memory may move.
   */
  static map(cpu: V86Cpu, { path, use }: SharedMemoryOptions): SharedMemory {
    const calls = loadCalls();
    const ram = cpu.mem8.subarray(0);
    const address = calls.memmove(ram, ram, 0);
    assert(address % PAGE_SIZE === 0 && ram.length % PAGE_SIZE === 0, "v86's RAM is not made of whole pages");
    if (!isReserved(address - ram.byteOffset, ram.buffer.byteLength)) {
      throw new MachineError("not-capable", "Guest memory cannot be shared: it may move when it grows", {
        hint: "lift the limit on address space (ulimit -v)",
      });
    }
    const fd = openOfSize(path, ram.length, use);
    try {
      if (use === "fill") writeAllAt(fd, path, ram, 0, ram.length, 0);
      const at = calls.mmap(address, ram.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
      if (at !== address) throw new MachineError("io", `Mapping failed: ${path} cannot be mapped`, { path });
    } finally {
      fs.closeSync(fd);
    }
    return new SharedMemory(cpu, calls, address);
  }

  /** @throws MachineError `not-capable` when the guest's RAM has moved away from the file. */
  check(): void {
    const { buffer } = this.#cpu.wasm_memory;
    if (buffer === this.#buffer) return;
    const ram = this.#cpu.mem8.subarray(0);
    if (this.#calls.memmove(ram, ram, 0) !== this.#address) {
      throw new MachineError("not-capable", "Guest memory has moved and is no longer shared");
    }
    this.#buffer = buffer;
  }
}

function openOfSize(path: string, bytes: number, use: SharedMemoryOptions["use"]): number {
  const { O_RDWR, O_CREAT } = fs.constants;
  let fd: number | undefined;
  try {
    fd = fs.openSync(path, use === "fill" ? O_RDWR | O_CREAT : O_RDWR, 0o600);
    const { size } = fs.fstatSync(fd);
    if (use === "fill" && size === 0) fs.ftruncateSync(fd, bytes);
    else if (size !== bytes) {
      throw new UsageError("The file for guest memory has another size than the guest's RAM", {
        path,
        expected: `${bytes} bytes`,
        actual: `${size} bytes`,
      });
    }
    return fd;
  } catch (cause) {
    if (fd !== undefined) fs.closeSync(fd);
    throw systemError("Sharing guest memory", path, cause);
  }
}

/**
 * Whether all that a memory can grow to is reserved for it: usable up to its length, and without a gap unusable for
 * everybody from there on.
 */
export function isReserved(start: number, length: number): boolean {
  let end = start;
  for (const line of fs.readFileSync("/proc/self/maps", "latin1").split("\n")) {
    const groups = /^(?<from>[0-9a-f]+)-(?<to>[0-9a-f]+) (?<access>\S+)/.exec(line)?.groups;
    const [from, to] = [groups?.from, groups?.to].map((text) => Number.parseInt(text ?? "", 16));
    if (from === undefined || to === undefined || !(to > start)) continue;
    if (from > end || (to > start + length && groups?.access !== "---p")) return false;
    end = to;
    if (end >= start + ADDRESS_SPACE_BYTES) return true;
  }
  return false;
}

function loadCalls(): MappingCalls {
  if (process.platform !== "linux") {
    throw new MachineError("not-capable", "Guest memory can be shared on Linux only");
  }
  try {
    const libc = loadKoffi().load(null);
    return {
      mmap: libc.func(
        "intptr_t mmap(uintptr_t at, size_t length, int protection, int flags, int fd, int64_t offset)",
      ) as MappingCalls["mmap"],
      memmove: libc.func("uintptr_t memmove(void *to, void *from, size_t length)") as MappingCalls["memmove"],
    };
  } catch (cause) {
    const hint = `install the optional package koffi (${errnoCode(cause) ?? "not usable"})`;
    throw new MachineError("not-capable", "Guest memory cannot be shared here", { hint }, cause);
  }
}
