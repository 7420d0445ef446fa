/** An object as its text has it: every pair in order, repeated keys too. */
export interface JsonObject {
  readonly entries: readonly (readonly [key: string, value: JsonValue])[];
}

/** A JSON value whose objects keep repeated keys. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;

/** Whether a value is an object. */
export function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a value is an array. */
export function isArray(value: JsonValue | undefined): value is readonly JsonValue[] {
  return Array.isArray(value);
}

/**
 * Parses JSON and keeps repeated keys, which JSON.parse drops.
 *
 * @param text Text that JSON.parse takes, nested no deeper than the stack allows: its errors are not looked for.
 */
export function scanJson(text: string): JsonValue {
  const parsed = JSON.parse(text) as Parsed;
  // Only the entries of lists and trees repeat keys. Where nothing was dropped, JSON.parse is many times as fast.
  if (withoutBlanks(JSON.stringify(parsed)) === withoutBlanks(text)) return keepOrder(parsed);
  return new JsonScanner(text).value();
}

type Parsed = null | boolean | number | string | readonly Parsed[] | { readonly [key: string]: Parsed };

function withoutBlanks(text: string): string {
  return text.replaceAll(" ", "");
}

function keepOrder(value: Parsed): JsonValue {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return (value as readonly Parsed[]).map(keepOrder);
  const entries: [string, JsonValue][] = [];
  for (const [key, item] of Object.entries(value as Readonly<Record<string, Parsed>>)) {
    entries.push([key, keepOrder(item)]);
  }
  return { entries };
}

const blank = /[ \t\r\n]*/y;
const literal = /[^ \t\r\n,:[\]{}"]+/y;
const BACKSLASH = "\\";

class JsonScanner {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(): JsonValue {
    this.#skipBlank();
    const first = this.#text[this.#at];
    if (first === "{") return { entries: this.#items("}", () => [this.#key(), this.value()] as const) };
    if (first === "[") return this.#items("]", () => this.value());
    if (first === '"') return this.#string();
    literal.lastIndex = this.#at;
    const word = literal.exec(this.#text)?.[0] ?? "null";
    this.#at += word.length;
    return JSON.parse(word) as JsonValue;
  }

  #items<T>(closing: string, item: () => T): T[] {
    const items: T[] = [];
    this.#at += 1;
    this.#skipBlank();
    while (this.#at < this.#text.length && this.#text[this.#at] !== closing) {
      items.push(item());
      this.#skipBlank();
      if (this.#text[this.#at] === ",") this.#at += 1;
      this.#skipBlank();
    }
    this.#at += 1;
    return items;
  }

  #key(): string {
    const key = this.#string();
    this.#skipBlank();
    this.#at += 1;
    return key;
  }

  #string(): string {
    const start = this.#at;
    const quote = this.#text.indexOf('"', start + 1);
    const plain = this.#text.slice(start + 1, quote);
    if (!plain.includes(BACKSLASH)) {
      this.#at = quote + 1;
      return plain;
    }
    let end = start + 1;
    while (end < this.#text.length && this.#text[end] !== '"') end += this.#text[end] === BACKSLASH ? 2 : 1;
    this.#at = end + 1;
    return JSON.parse(this.#text.slice(start, this.#at)) as string;
  }

  #skipBlank(): void {
    const code = this.#text.charCodeAt(this.#at);
    // Between most things stands one blank, or none.
    if (code > 0x20) return;
    blank.lastIndex = this.#at;
    this.#at += blank.exec(this.#text)?.[0].length ?? 0;
  }
}
