import { CancelledError, FormatError, MachineError, UsageError } from "../errors/index.js";

/** What the command line exits with. The numbers are a contract. */
export const ExitCode = {
  fine: 0,
  /** The file or stream is bad. */
  badInput: 1,
  /** Wrong usage. */
  usage: 2,
  /** The machine, the QEMU or the network failed. */
  machine: 3,
  cancelled: 130,
} as const;

/** The exit code for what was thrown; a bug of ours counts as the machine's failure. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof FormatError) return ExitCode.badInput;
  if (error instanceof UsageError) return ExitCode.usage;
  if (error instanceof CancelledError) return ExitCode.cancelled;
  if (error instanceof MachineError) return ExitCode.machine;
  return ExitCode.machine;
}
