/** Largest message that is accepted, in bytes; commands are small. QEMU takes 64 MiB. */
export const MAX_MESSAGE_BYTES = 1 << 20;
/** Deepest nesting of lists and objects: QEMU's `MAX_NESTING`. */
const MAX_NESTING = 1024;

/** A message as it arrived, or why there is none. */
export type SplitMessage = { readonly text: string } | { readonly malformed: string };

const NEWLINE = 0x0a;
const BACKSLASH = 0x5c;
const QUOTES: readonly number[] = [0x22, 0x27];
const BLANKS: readonly number[] = [0x20, 0x09, 0x0d, NEWLINE];
/** Opening brackets and what closes them. */
const CLOSING: ReadonlyMap<number, number> = new Map([
  [0x7b, 0x7d],
  [0x5b, 0x5d],
]);
const CLOSERS: readonly number[] = [...CLOSING.values()];

const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * Cuts what a client sends into JSON objects. As in QEMU they need no newline between them, may lie in several packets
 * and lines, and strings may stand in single quotes. After something that is none, reading goes on with the next line.
 */
export class MessageSplitter {
  readonly #maxBytes: number;
  #parts: Buffer[] = [];
  #bytes = 0;
  /** What closes the objects and lists that are open. */
  readonly #open: number[] = [];
  /** The quote that ends the string, 0 outside of strings. */
  #quote = 0;
  #escaped = false;
  #skipping = false;

  constructor(maxBytes: number = MAX_MESSAGE_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /** Takes a packet and yields the messages that it completes. */
  *push(chunk: Buffer): Generator<SplitMessage, void, undefined> {
    let from = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at] ?? 0;
      if (this.#skipping) {
        this.#skipping = byte !== NEWLINE;
        from = at + 1;
        continue;
      }
      if (this.#open.length === 0 && BLANKS.includes(byte)) {
        from = at + 1;
        continue;
      }
      const problem = this.#take(byte) ?? this.#grow(at + 1 - from);
      if (problem !== undefined) {
        yield { malformed: problem };
        this.#reset();
        this.#skipping = byte !== NEWLINE;
        from = at + 1;
      } else if (this.#open.length === 0) {
        yield this.#finish(chunk.subarray(from, at + 1));
        from = at + 1;
      }
    }
    if (from < chunk.length) {
      // A copy: a packet may be a small part of a large buffer.
      this.#parts.push(Buffer.from(chunk.subarray(from)));
      this.#bytes += chunk.length - from;
    }
  }

  /** Returns what is wrong with the byte, if anything. */
  #take(byte: number): string | undefined {
    if (this.#quote !== 0) {
      if (byte < 0x20) return "JSON parse error, a string is not ended";
      if (this.#escaped) this.#escaped = false;
      else if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === this.#quote) this.#quote = 0;
      return undefined;
    }
    const closer = CLOSING.get(byte);
    if (closer !== undefined) {
      if (this.#open.push(closer) > MAX_NESTING) return "JSON nesting limit exceeded";
    } else if (this.#open.length === 0) {
      return "QMP input must be a JSON object";
    } else if (QUOTES.includes(byte)) {
      this.#quote = byte;
    } else if (CLOSERS.includes(byte) && this.#open.pop() !== byte) {
      return "JSON parse error, brackets do not match";
    }
    return undefined;
  }

  #grow(length: number): string | undefined {
    return this.#bytes + length > this.#maxBytes
      ? `A message must not be longer than ${this.#maxBytes} bytes`
      : undefined;
  }

  #finish(last: Buffer): SplitMessage {
    const bytes = Buffer.concat([...this.#parts, last]);
    this.#reset();
    try {
      return { text: decoder.decode(bytes) };
    } catch {
      return { malformed: "JSON parse error, invalid UTF-8" };
    }
  }

  #reset(): void {
    this.#parts = [];
    this.#bytes = 0;
    this.#open.length = 0;
    this.#quote = 0;
    this.#escaped = false;
  }
}

/** Turns strings in single quotes into JSON's own; everything else stays as it is. */
export function withDoubleQuotes(text: string): string {
  return text.replace(/"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'/g, (whole, single: string | undefined) =>
    single === undefined ? whole : `"${single.replaceAll("\\'", "'").replaceAll('"', '\\"')}"`,
  );
}
