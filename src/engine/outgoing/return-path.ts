import type { ByteSource } from "../../channels/index.js";
import { MachineError } from "../../errors/index.js";
import { ByteReader, decodeReturnPathRecord, ReturnPathMessage } from "../../wire/index.js";
import { StreamInput } from "../stream-input.js";

/** Where a destination's reason stands when it sends none. */
export const OWN_ERROR = "its own error says why: look at its standard error or log";

/**
 * Reads the return path until the destination says how the load went.
 *
 * @param hint What to do about one that closes without a word.
 * @throws MachineError `migration-failed` when it failed there, or the destination closed without a word.
 */
export async function awaitShut(returnPath: ByteSource, hint = OWN_ERROR): Promise<void> {
  const input = new StreamInput(returnPath);
  while (true) {
    if ((await input.peek()) === undefined) {
      throw closedEarly(hint);
    }
    const { type, data } = await input.parse(decodeReturnPathRecord);
    if (type !== ReturnPathMessage.SHUT) continue;
    const result = new ByteReader(data).u32();
    if (result === 0) return;
    throw new MachineError("migration-failed", "The destination says that loading failed", {
      actual: result,
    });
  }
}

/** The destination closed the connection: whether the system calls that an end or an error depends on what was under way. */
export function closedEarly(hint: string, cause?: unknown): MachineError {
  const message = "The destination closed the connection without having loaded all";
  return new MachineError("migration-failed", message, { hint }, cause);
}
