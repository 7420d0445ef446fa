import fs from "node:fs";
import process from "node:process";

import { assert, MachineError } from "../../errors/index.js";
import { CANNOT_RUN, Errno, type UffdCalls, uffdCalls } from "./system.js";

/** Numbers and layouts of Linux's `userfaultfd.h`: the same on x86-64 and arm64, which both have little-endian 64 bits. */
const Ioctl = {
  /** `USERFAULTFD_IOC_NEW`, of the device. */
  NEW: 0xaa00,
  /** `struct uffdio_api`: api, features, ioctls. */
  API: 0xc018aa3f,
  /** `struct uffdio_register`: start, length, mode, ioctls. */
  REGISTER: 0xc020aa00,
  /** `struct uffdio_range`: start, length. */
  UNREGISTER: 0x8010aa01,
  WAKE: 0x8010aa02,
  /** `struct uffdio_copy`: destination, source, length, mode, bytes copied. */
  COPY: 0xc028aa03,
  /** `struct uffdio_zeropage`: start, length, mode, bytes cleared. */
  ZEROPAGE: 0xc020aa04,
} as const;

/** `__NR_userfaultfd`. */
const SYSCALL: Readonly<Record<string, number>> = { x64: 323, arm64: 282 };
const DEVICE = "/dev/userfaultfd";
const UFFD_API = 0xaa;
const UFFD_USER_MODE_ONLY = 1;
const UFFDIO_REGISTER_MODE_MISSING = 1;
/** `UFFD_EVENT_PAGEFAULT`, the only event that comes unless others are asked for. */
const EVENT_PAGEFAULT = 0x12;
/** `UFFD_FEATURE_THREAD_ID`: a fault says which thread waits. */
const FEATURE_THREAD_ID = 1 << 8;
/** `struct uffd_msg`; a fault's address is a 64-bit number at byte 16, its thread a 32-bit one at byte 24. */
const MESSAGE_BYTES = 32;
const MESSAGE_ADDRESS = 16;
const MESSAGE_THREAD = 24;
const MESSAGES_A_READ = 64;
/** As `ioctls` of a registration says that they are possible: one bit for each command's low byte. */
const NEEDED_IOCTLS = (1 << 3) | (1 << 4) | (1 << 2);

/** What of a placement was done. */
export type Placed = "placed" | "exists";

/**
 * Linux's userfaultfd: memory whose missing pages another thread puts in place, while the thread that touched one waits.
 * Addresses are this process's.
 *
 * The thread that serves it must never touch registered memory itself: nobody could help it.
 */
export class Userfaultfd {
  /** Open until {@link close}; every thread of the process may use it, {@link ofDescriptor}. */
  readonly fd: number;
  /**
   * Whether system calls may touch missing pages, too. If not, one that is given such memory fails with EFAULT, and the
   * guest's own accesses are all that works.
   */
  readonly servesKernel: boolean;
  readonly #calls: UffdCalls;
  readonly #argument = new DataView(new ArrayBuffer(40));
  readonly #argumentBytes = new Uint8Array(this.#argument.buffer);
  readonly #messages = new DataView(new ArrayBuffer(MESSAGE_BYTES * MESSAGES_A_READ));
  readonly #messageBytes = new Uint8Array(this.#messages.buffer);

  private constructor(fd: number, servesKernel: boolean, calls: UffdCalls) {
    this.fd = fd;
    this.servesKernel = servesKernel;
    this.#calls = calls;
  }

  /**
   * Opens one: by the device, where this user may open it, or by the system call.
   *
   * @throws MachineError `not-capable` where there is none to be had.
   */
  static open(): Userfaultfd {
    const calls = uffdCalls();
    const { fd, servesKernel } = openDescriptor(calls);
    const uffd = new Userfaultfd(fd, servesKernel, calls);
    uffd.#put(UFFD_API, FEATURE_THREAD_ID, 0);
    if (uffd.#ioctl(Ioctl.API) === 0) return uffd;
    uffd.close();
    throw notCapable("the kernel's userfaultfd is of another kind");
  }

  /** The same in another thread. */
  static ofDescriptor(fd: number, servesKernel: boolean): Userfaultfd {
    return new Userfaultfd(fd, servesKernel, uffdCalls());
  }

  /**
   * From now on whoever touches a page of this memory that is not there waits until it is placed.
   *
   * @param address Of whole pages of the system, as `length`: private memory without a file behind it.
   * @throws MachineError `not-capable` for memory that the kernel does not take.
   */
  register(address: number, length: number): void {
    this.#put(address, length, UFFDIO_REGISTER_MODE_MISSING, 0);
    if (this.#ioctl(Ioctl.REGISTER) === 0 && (this.#get(24) & NEEDED_IOCTLS) === NEEDED_IOCTLS) return;
    throw notCapable("the kernel does not take its memory");
  }

  /** Ends it: pages that are still missing are zero, and who waited for one goes on. */
  unregister(address: number, length: number): void {
    this.#put(address, length);
    if (this.#ioctl(Ioctl.UNREGISTER) !== 0) throw this.#failure("Unregistering guest memory");
  }

  /**
   * Puts whole pages in place, each at once, and wakes who waits for them.
   *
   * @returns `exists` when one of them was there already; those in front of it were placed.
   * @throws MachineError `io`.
   */
  copy(address: number, from: number, length: number): Placed {
    for (let done = 0; done < length;) {
      this.#put(address + done, from + done, length - done, 0, 0);
      const placed = this.#place(Ioctl.COPY, 32, "Placing a page of guest memory");
      if (placed === "exists") return placed;
      done += placed;
    }
    return "placed";
  }

  /** The same with zero pages, which take no memory until somebody writes to them. */
  zero(address: number, length: number): Placed {
    for (let done = 0; done < length;) {
      this.#put(address + done, length - done, 0, 0);
      const placed = this.#place(Ioctl.ZEROPAGE, 24, "Clearing a page of guest memory");
      if (placed === "exists") return placed;
      done += placed;
    }
    return "placed";
  }

  /** Lets those who wait for these pages look again. */
  wake(address: number, length: number): void {
    this.#put(address, length);
    if (this.#ioctl(Ioctl.WAKE) !== 0) throw this.#failure("Waking a guest");
  }

  /**
   * Takes what is there of pages that somebody waits for, without waiting itself. A page comes again when somebody else
   * touches it.
   *
   * @param onFault Gets the address of the page, and the number of the thread that waits.
   */
  takeFaults(onFault: (address: number, threadId: number) => void): void {
    for (;;) {
      const count = this.#calls.read(this.fd, this.#messageBytes, this.#messageBytes.length);
      if (count < 0) {
        const errno = this.#calls.errno();
        if (errno === Errno.EAGAIN) return;
        if (errno === Errno.EINTR) continue;
        throw this.#failure("Reading the pages that a guest waits for");
      }
      assert(count % MESSAGE_BYTES === 0, "userfaultfd gives whole messages");
      for (let at = 0; at < count; at += MESSAGE_BYTES) {
        if (this.#messages.getUint8(at) !== EVENT_PAGEFAULT) continue;
        const address = Number(this.#messages.getBigUint64(at + MESSAGE_ADDRESS, true));
        onFault(address, this.#messages.getUint32(at + MESSAGE_THREAD, true));
      }
      if (count < this.#messageBytes.length) return;
    }
  }

  /** Closes it, which unregisters everything. */
  close(): void {
    this.#calls.close(this.fd);
  }

  #place(request: number, resultAt: number, action: string): number | "exists" {
    for (;;) {
      const errno = this.#ioctl(request) === 0 ? 0 : this.#calls.errno();
      const done = this.#get(resultAt);
      if (errno === 0 || done > 0) return done;
      if (errno === Errno.EEXIST) return "exists";
      // The kernel asks for another try while mappings of the process change.
      if (errno !== Errno.EAGAIN && errno !== Errno.EINTR) throw this.#failure(action);
    }
  }

  #ioctl(request: number): number {
    return this.#calls.ioctl(this.fd, request, this.#argumentBytes);
  }

  #put(...values: readonly number[]): void {
    for (let index = 0; index < values.length; index++) {
      const value = values[index] ?? 0;
      this.#argument.setUint32(index * 8, value % 2 ** 32, true);
      this.#argument.setUint32(index * 8 + 4, value / 2 ** 32, true);
    }
  }

  #get(at: number): number {
    return Number(this.#argument.getBigInt64(at, true));
  }

  #failure(action: string): MachineError {
    return new MachineError("io", `${action} failed: the system's error is number ${this.#calls.errno()}`);
  }
}

function openDescriptor(calls: UffdCalls): { readonly fd: number; readonly servesKernel: boolean } {
  const { O_NONBLOCK } = fs.constants;
  const O_CLOEXEC = 0o2000000;
  const device = openDevice();
  if (device !== undefined) {
    const fd = calls.ioctlNumber(device, Ioctl.NEW, O_CLOEXEC | O_NONBLOCK);
    fs.closeSync(device);
    if (fd >= 0) return { fd, servesKernel: true };
  }
  const number = SYSCALL[process.arch];
  assert(number !== undefined, "an architecture with a number for userfaultfd");
  const full = calls.syscall(number, O_CLOEXEC | O_NONBLOCK);
  if (full >= 0) return { fd: full, servesKernel: true };
  const userOnly = calls.syscall(number, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (userOnly >= 0) return { fd: userOnly, servesKernel: false };
  throw notCapable(`userfaultfd failed with the system's error number ${calls.errno()}`);
}

function openDevice(): number | undefined {
  try {
    return fs.openSync(DEVICE, fs.constants.O_RDWR);
  } catch {
    return undefined;
  }
}

function notCapable(why: string): MachineError {
  return new MachineError("not-capable", `${CANNOT_RUN}: ${why}`, {
    hint: `allow this user to open ${DEVICE}, give the process CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd to 1`,
  });
}
