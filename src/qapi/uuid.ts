import { printable, UsageError } from "../errors/index.js";

/**
 * Reads a UUID in its usual form.
 *
 * @returns Its 16 bytes, in the order in which it is written.
 * @throws UsageError.
 */
export function parseUuid(text: string): Uint8Array {
  if (!/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(text)) {
    throw new UsageError(`"${printable(text)}" is no UUID`, {
      hint: "write it as 550e8400-e29b-41d4-a716-446655440000",
    });
  }
  return Uint8Array.from(text.replaceAll("-", "").match(/../g) ?? [], (byte) => Number.parseInt(byte, 16));
}
