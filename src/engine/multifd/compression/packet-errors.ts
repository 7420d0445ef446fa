import { FormatError, printable } from "../../../errors/index.js";

/** The data unpacks to more than the packet's pages. */
export function tooMuchData(outputBytes: number): FormatError {
  return new FormatError("malformed", "A compressed packet holds more than its pages", {
    expected: `${outputBytes} bytes`,
  });
}

/** The data ended before the packet's pages were full. */
export function tooLittleData(outputBytes: number, filled: number): FormatError {
  return new FormatError("truncated", "A compressed packet holds less than its pages", {
    expected: `${outputBytes} bytes`,
    actual: `${filled} bytes`,
  });
}

/** The compressed stream ended, which it never does in a migration. */
export function streamEnded(): FormatError {
  return new FormatError("malformed", "A compressed packet ends its channel's compressed stream");
}

/** The library cannot make sense of the data. */
export function damagedData(why: string, cause?: unknown): FormatError {
  return new FormatError("malformed", `A compressed packet is damaged: ${printable(why)}`, {}, cause);
}

/** The sender compressed with settings that need more memory here than any that QEMU has. */
export function windowTooLarge(cause?: unknown): FormatError {
  const message = "A compressed packet asks for more memory than zstd's level 20 needs";
  return new FormatError("limit-exceeded", message, {}, cause);
}

/**
 * Settles what needs no library: a packet without pages has no data, and one with pages has some.
 *
 * @returns true when there is nothing to unpack.
 * @throws FormatError for one without the other.
 */
export function isEmptyPacket(input: Uint8Array, output: Uint8Array): boolean {
  if (output.length === 0 && input.length > 0) throw tooMuchData(0);
  if (input.length === 0 && output.length > 0) throw tooLittleData(output.length, 0);
  return output.length === 0;
}
