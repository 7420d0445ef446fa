import { checkJsonSize } from "./vmstate-description.js";

/** Holds what the text had where an object cannot say it: {@link entriesOf} knows. */
const ENTRIES = Symbol("entries");

/** An object; of a key that repeats it has the last value, as JSON.parse does. */
export interface JsonObject {
  readonly [key: string]: JsonValue;
  readonly [ENTRIES]?: JsonEntries;
}

/** An object's pairs. */
export type JsonEntries = readonly (readonly [key: string, value: JsonValue])[];

/** An object's pairs in the order of the text, repeated keys too. */
export function entriesOf(object: JsonObject): JsonEntries {
  return object[ENTRIES] ?? Object.entries(object);
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
 * @param text Text that `parseVmstateDescription` takes: its errors are not looked for.
 * @param offset Where the text stands in the file, for errors.
 * @throws FormatError `limit-exceeded` for what only a key that repeats hides from JSON.parse.
 */
export function scanJson(text: string, offset: number): JsonValue {
  const parsed = JSON.parse(text) as JsonValue;
  // Only the entries of lists and trees repeat keys. Where nothing was dropped, JSON.parse is many times as fast.
  if (withoutBlanks(JSON.stringify(parsed)) === withoutBlanks(text)) return parsed;
  checkJsonSize(text, offset);
  return new JsonScanner(text).value();
}

function withoutBlanks(text: string): string {
  return text.replaceAll(" ", "");
}

/** The object with these pairs. */
export function objectOf(entries: JsonEntries): JsonObject {
  const keys = new Set(entries.map(([key]) => key));
  // Properties whose names are numbers come first, whatever the order was.
  const isFaithful = keys.size === entries.length && !entries.some(([key]) => /^\d/.test(key));
  const object = Object.fromEntries(entries);
  return isFaithful ? object : { ...object, [ENTRIES]: entries };
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
    if (first === "{") return objectOf(this.#items("}", () => [this.#key(), this.value()] as const));
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
