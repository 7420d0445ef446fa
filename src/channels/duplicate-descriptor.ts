import { MachineError } from "../errors/index.js";
import { optionalSystemCalls } from "./system-calls.js";

/** `fcntl(2)`; on Linux its third argument is passed as any other. */
type Fcntl = (fd: number, command: number, argument: number) => number;

const F_DUPFD_CLOEXEC = 1030;

const loadFcntl = optionalSystemCalls((libc) => libc.func("fcntl", "int", ["int", "int", "long"]) as Fcntl);

/**
 * Another descriptor of what one stands for; the caller closes it.
 *
 * @throws MachineError `not-capable` on another system than Linux or without the optional package `koffi`; `io`.
 */
export function duplicateDescriptor(fd: number): number {
  const fcntl = loadFcntl();
  if (fcntl === undefined) {
    throw new MachineError("not-capable", "A connection cannot be handed to another thread here", {
      hint: "it takes Linux and the optional package koffi",
    });
  }
  const duplicate = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (duplicate >= 0) return duplicate;
  throw new MachineError("io", `Descriptor ${fd} cannot be duplicated`);
}
