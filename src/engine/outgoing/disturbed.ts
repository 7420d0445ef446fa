import { MachineError } from "../../errors/index.js";

/** Something from outside changed what must not change while it migrates. */
export function disturbed(message: string): MachineError {
  return new MachineError("migration-failed", message, { hint: "migrate again" });
}
