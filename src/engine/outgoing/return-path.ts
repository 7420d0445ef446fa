import type { ByteSource } from "../../channels/index.js";
import { MachineError } from "../../errors/index.js";
import { ByteReader, decodeReturnPathRecord, ReturnPathMessage } from "../../wire/index.js";
import { StreamInput } from "../stream-input.js";

/**
 * Reads the return path until the destination says how the load went.
 *
 * @throws MachineError `migration-failed` when it failed there, or the destination closed without a word.
 */
export async function awaitShut(returnPath: ByteSource): Promise<void> {
  const input = new StreamInput(returnPath);
  while (true) {
    if ((await input.peek()) === undefined) {
      throw new MachineError(
        "migration-failed",
        "The destination closed the connection without having loaded all",
        {
          hint: "its own error says why: look at its standard error or log",
        },
      );
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
