/**
 * The one family of errors that ramport throws for what the world does: bad bytes, wrong usage, a machine or network
 * that failed, a cancelled operation. An assertion (`assert`) is different: it means a bug in ramport itself.
 *
 * @module
 */

/** Codes of {@link FormatError}: what is wrong with a file or a stream. */
export type FormatErrorCode =
  /** The input ended in the middle of something. */
  | "truncated"
  /** The bytes break the format: a wrong magic, an impossible length, a record that cannot stand here. */
  | "malformed"
  /** Two parts contradict each other: overlapping areas, a description that does not fit the sections. */
  | "inconsistent"
  /** Well formed, but something that ramport does not handle. */
  | "unsupported"
  /** A length or count beyond the limit that ramport sets for it. */
  | "limit-exceeded";

/** Codes of {@link UsageError}. */
export type UsageErrorCode = "usage";

/** Codes of {@link MachineError}: what failed around ramport. */
export type MachineErrorCode =
  /** A system call on a file or socket failed; `cause` has the system's error. */
  | "io"
  /** The other side closed or reset the connection. */
  | "connection-closed"
  /** A TLS handshake came to nothing: the other side speaks no TLS, or one of the two is not who it should be. */
  | "tls"
  /** A QMP command was answered with an error, or the peer does not speak QMP. */
  | "qmp"
  /** A QEMU cannot do what is asked of it. */
  | "not-capable"
  /** The migration failed on QEMU's side. */
  | "migration-failed"
  /** Something took longer than its limit. */
  | "timeout";

/** Codes of {@link CancelledError}. */
export type CancelledErrorCode = "cancelled";

/** Every code an error of ramport can carry. */
export type RamportErrorCode = FormatErrorCode | UsageErrorCode | MachineErrorCode | CancelledErrorCode;

/** Where an error is and what was found there; every field is optional, and none is repeated in the message by hand. */
export interface RamportErrorData {
  /** Byte offset in the file or stream. */
  readonly offset?: number;
  /** Section name (`ram`, `cpu`, ...). */
  readonly section?: string;
  /** RAM block name (`pc.ram`, ...). */
  readonly block?: string;
  readonly expected?: string | number | bigint;
  readonly actual?: string | number | bigint;
  /** File or socket concerned. */
  readonly path?: string;
  /** What the user can do about it: a clause, shown after the message. */
  readonly hint?: string;
}

/** Base of the family. `message` is one sentence with its place; `data` has the same in typed form. */
export abstract class RamportError extends Error {
  abstract readonly code: RamportErrorCode;
  readonly data: RamportErrorData;

  protected constructor(message: string, data: RamportErrorData, cause: unknown) {
    super(withPlace(message, data), cause === undefined ? undefined : { cause });
    this.data = data;
  }
}

/** The file or stream is bad, or holds what ramport does not support. The command line exits with 1. */
export class FormatError extends RamportError {
  override readonly name = "FormatError";
  readonly code: FormatErrorCode;

  constructor(code: FormatErrorCode, message: string, data: RamportErrorData = {}, cause?: unknown) {
    super(message, data, cause);
    this.code = code;
  }
}

/** The caller asked for something impossible. The command line exits with 2. */
export class UsageError extends RamportError {
  override readonly name = "UsageError";
  readonly code = "usage";

  constructor(message: string, data: RamportErrorData = {}, cause?: unknown) {
    super(message, data, cause);
  }
}

/** The machine, the QEMU or the network failed. The command line exits with 3. */
export class MachineError extends RamportError {
  override readonly name = "MachineError";
  readonly code: MachineErrorCode;

  constructor(code: MachineErrorCode, message: string, data: RamportErrorData = {}, cause?: unknown) {
    super(message, data, cause);
    this.code = code;
  }
}

/** The operation's AbortSignal fired. The command line exits with 130. */
export class CancelledError extends RamportError {
  override readonly name = "CancelledError";
  readonly code = "cancelled";

  constructor(message = "The operation was cancelled", cause?: unknown) {
    super(message, {}, cause);
  }
}

/**
 * States what must hold if ramport itself is right.
 *
 * @throws Error with the message when the condition is false: a bug of ramport, never of its input.
 */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`ramport bug: ${message}`);
}

/** Throws {@link CancelledError} when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new CancelledError(undefined, signal.reason);
}

function withPlace(message: string, data: RamportErrorData): string {
  const place: string[] = [];
  if (data.offset !== undefined) place.push(`offset ${data.offset}`);
  if (data.section !== undefined) place.push(`section ${printable(data.section)}`);
  if (data.block !== undefined) place.push(`block ${printable(data.block)}`);
  const found: string[] = [];
  if (data.expected !== undefined) found.push(`expected ${showValue(data.expected)}`);
  if (data.actual !== undefined) found.push(`found ${showValue(data.actual)}`);
  const details = [...place, ...found].join(", ");
  const sentence = details === "" ? message : `${message} (${details})`;
  return data.hint === undefined ? sentence : `${sentence}; ${data.hint}`;
}

function showValue(value: string | number | bigint): string {
  return typeof value === "string" ? printable(value) : String(value);
}

/**
 * Makes text from a file or a peer safe to print: control characters, terminal escapes and direction overrides become
 * `\u{..}` escapes, and what is very long is cut.
 */
export function printable(text: string, maxLength = 200): string {
  const cut = text.length > maxLength ? `${text.slice(0, maxLength)}…` : text;
  return cut.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu,
    (c) => `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`,
  );
}
