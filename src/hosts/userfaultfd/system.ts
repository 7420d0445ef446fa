import process from "node:process";

import { loadKoffi } from "../../channels/system-calls.js";
import { errnoCode } from "../../channels/system-error.js";
import { MachineError } from "../../errors/index.js";

/** The calls that userfaultfd takes. Those that can fail give -1 then; {@link UffdCalls.errno} says why. */
export interface UffdCalls {
  /** `argument` is a number. */
  ioctlNumber(fd: number, request: number, argument: number): number;
  /** `argument` is a structure, which the kernel may write to. */
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  syscall(number: number, argument: number): number;
  read(fd: number, to: Uint8Array, length: number): number;
  write(fd: number, from: Uint8Array, length: number): number;
  poll(descriptors: Uint8Array, count: number, timeoutMs: number): number;
  eventfd(initial: number, flags: number): number;
  shutdown(fd: number, how: number): number;
  /** `length` is the room for the address, and becomes its length. */
  getsockname(fd: number, address: Uint8Array, length: Uint32Array): number;
  /** Ends the process at once, whatever its other threads do. */
  exitProcess(status: number): void;
  close(fd: number): number;
  madvise(address: number, length: number, advice: number): number;
  getpagesize(): number;
  /** Where bytes are in this process. */
  addressOf(bytes: Uint8Array): number;
  /** Number of the last call's error, in this thread. */
  errno(): number;
}

/** Numbers of errors that are told apart; they are the same on every architecture that ramport knows. */
export const Errno = { EINTR: 4, EAGAIN: 11, EEXIST: 17 } as const;

/** The begin of the sentence that says that it does not work here. */
export const CANNOT_RUN = "A guest cannot run here while its pages are missing";

let bound: UffdCalls | undefined;

/**
 * The system calls, bound once in each thread.
 *
 * @throws MachineError `not-capable` on another system than Linux on x86-64 or arm64, or without the optional package
 *   `koffi`.
 */
export function uffdCalls(): UffdCalls {
  bound ??= bind();
  return bound;
}

function bind(): UffdCalls {
  if (process.platform !== "linux" || !["x64", "arm64"].includes(process.arch)) {
    throw new MachineError("not-capable", `${CANNOT_RUN}: userfaultfd needs Linux on x86-64 or arm64`);
  }
  try {
    const koffi = loadKoffi();
    const libc = koffi.load(null);
    const memmove = libc.func("uintptr_t memmove(void *to, void *from, size_t length)") as (
      to: Uint8Array,
      from: Uint8Array,
      length: number,
    ) => number | bigint;
    return {
      ioctlNumber: libc.func("ioctl", "int", ["int", "unsigned long", "long"]) as UffdCalls["ioctlNumber"],
      ioctl: libc.func("ioctl", "int", ["int", "unsigned long", "void *"]) as UffdCalls["ioctl"],
      syscall: libc.func("syscall", "long", ["long", "long"]) as UffdCalls["syscall"],
      read: libc.func("intptr_t read(int fd, void *to, size_t length)") as UffdCalls["read"],
      write: libc.func("intptr_t write(int fd, void *from, size_t length)") as UffdCalls["write"],
      poll: libc.func("int poll(void *descriptors, unsigned long count, int timeoutMs)") as UffdCalls["poll"],
      eventfd: libc.func("int eventfd(unsigned int initial, int flags)") as UffdCalls["eventfd"],
      getsockname: libc.func(
        "int getsockname(int fd, void *address, void *length)",
      ) as UffdCalls["getsockname"],
      shutdown: libc.func("int shutdown(int fd, int how)") as UffdCalls["shutdown"],
      exitProcess: libc.func("void _exit(int status)") as UffdCalls["exitProcess"],
      close: libc.func("int close(int fd)") as UffdCalls["close"],
      madvise: libc.func("int madvise(uintptr_t address, size_t length, int advice)") as UffdCalls["madvise"],
      getpagesize: libc.func("int getpagesize()") as UffdCalls["getpagesize"],
      addressOf: (bytes) => Number(memmove(bytes, bytes, 0)),
      errno: () => koffi.errno(),
    };
  } catch (cause) {
    const hint = `install the optional package koffi (${errnoCode(cause) ?? "not usable"})`;
    throw new MachineError("not-capable", CANNOT_RUN, { hint }, cause);
  }
}
