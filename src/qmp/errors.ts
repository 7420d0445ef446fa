/**
 * The error of a command that QEMU refused.
 *
 * @module
 */
import { MachineError, printable } from "../errors/index.js";

/** QEMU's error classes; everything that is none of the special cases is `GenericError`. */
export type QmpErrorClass =
  | "GenericError"
  | "CommandNotFound"
  | "DeviceNotActive"
  | "DeviceNotFound"
  | "KVMMissingCap"
  | (string & Record<never, never>);

/** A command was answered with an error. `code` is `qmp`; the message has QEMU's own words. */
export class QmpCommandError extends MachineError {
  readonly command: string;
  /** QEMU's error class: what to test, since QEMU's wording may change between versions. */
  readonly qmpClass: QmpErrorClass;
  /** QEMU's own words, as received: pass them through `printable` before showing them. */
  readonly desc: string;

  constructor(command: string, qmpClass: string, desc: string) {
    super("qmp", `QEMU refused ${printable(command)}: ${printable(desc, 1000)} [${printable(qmpClass)}]`);
    this.command = command;
    this.qmpClass = qmpClass;
    this.desc = desc;
  }
}
