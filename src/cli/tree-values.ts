import { printable } from "../errors/index.js";
import type { VmstateLeaf, VmstateValue } from "../wire/index.js";

/** From here on the digits of an unsigned number are shown in hexadecimal too. */
const SMALL = 256;
const LARGEST_ROW_BYTES = 32;
const SHORT_BYTES = 16;

/** Whether a value is bytes: they are shown in rows, not among others. */
export function isByteLeaf(leaf: VmstateLeaf): leaf is VmstateLeaf & { readonly value: Uint8Array } {
  return leaf.value instanceof Uint8Array;
}

/** A value's text, and for bytes the rows that go below it. */
export function leafText(
  leaf: VmstateLeaf,
  limit: number,
  width: number,
): { readonly text: string; readonly rows: readonly string[] } {
  if (isByteLeaf(leaf)) return bytesText(leaf.value, limit, width);
  const text = valueText(leaf.value);
  if (leaf.type === "timer" && leaf.value === -1n) return { text: `${text} (not set)`, rows: [] };
  const hex = isUnsigned(leaf.type) && isLarge(leaf.value) ? ` (${hexText(leaf.value)})` : "";
  return { text: text + hex, rows: [] };
}

/** Equal values that follow each other in an array. */
export interface ValueRun {
  readonly leaf: VmstateLeaf;
  count: number;
}

/** The values of an array: equal neighbours once, with their number. */
export class ValueList {
  readonly runs: ValueRun[] = [];
  count = 0;
  readonly #limit: number;
  #rest = 0;
  #inHex = false;

  /** @param limit How many different neighbours are shown; the others are only counted. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  add(leaf: VmstateLeaf): void {
    this.count += 1;
    const last = this.runs.at(-1);
    if (this.#rest === 0 && last?.leaf.value === leaf.value) last.count += 1;
    else if (this.runs.length < this.#limit) {
      this.runs.push({ leaf, count: 1 });
      this.#inHex ||= isUnsigned(leaf.type) && isLarge(leaf.value);
    } else this.#rest += 1;
  }

  /** One text for each run. When there are large unsigned numbers, all are in hexadecimal. */
  texts(): string[] {
    const texts = this.runs.map(({ leaf: { value }, count }) => {
      const isNumber = typeof value === "number" || typeof value === "bigint";
      const text = this.#inHex && isNumber ? hexText(value) : valueText(value);
      return count === 1 ? text : `${text} x ${count}`;
    });
    if (this.#rest > 0) texts.push(`... ${this.#rest} more`);
    return texts.length === 0 ? ["nothing"] : texts;
  }
}

/** Items behind a label, separated by commas, in lines of at most `width` columns where that is possible. */
export function* wrapped(
  label: string,
  items: readonly string[],
  indent: string,
  width: number,
): Generator<string, void, undefined> {
  let line = label;
  let empty = true;
  for (const [index, item] of items.entries()) {
    const text = index === items.length - 1 ? item : `${item},`;
    if (!empty && line.length + 1 + text.length > width) {
      yield line;
      line = indent + text;
    } else line += empty ? text : ` ${text}`;
    empty = false;
  }
  yield line;
}

function bytesText(
  bytes: Uint8Array,
  limit: number,
  width: number,
): { readonly text: string; readonly rows: readonly string[] } {
  const size = bytes.length === 1 ? "1 byte" : `${bytes.length} bytes`;
  const [first] = bytes;
  if (first === undefined) return { text: "nothing", rows: [] };
  if (bytes.length > 1 && bytes.every((byte) => byte === first)) {
    return { text: `${size}, all ${first === 0 ? "zero" : `0x${first.toString(16)}`}`, rows: [] };
  }
  const words = textIn(bytes);
  if (words !== undefined) return { text: `${JSON.stringify(words)} (${size})`, rows: [] };
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(limit, bytes.length));
  if (hex.length === bytes.length && hex.length <= SHORT_BYTES)
    return { text: `${size}, ${pairs(hex)}`, rows: [] };
  let rowBytes = LARGEST_ROW_BYTES;
  while (rowBytes > 4 && rowBytes * 3 - 1 > width) rowBytes /= 2;
  const rows: string[] = [];
  for (let at = 0; at < hex.length; at += rowBytes) rows.push(pairs(hex.subarray(at, at + rowBytes)));
  if (bytes.length > hex.length) rows.push(`... ${restText(bytes.subarray(hex.length))}`);
  return { text: size, rows };
}

function restText(rest: Uint8Array): string {
  const size = rest.length === 1 ? "1 byte" : `${rest.length} bytes`;
  return rest.every((byte) => byte === 0) ? `${size} more, all zero` : `${size} more`;
}

/** Printable text that is padded with zeros, as names and states are kept; undefined for other bytes. */
function textIn(bytes: Uint8Array): string | undefined {
  const end = bytes.indexOf(0);
  if (end < 3 || bytes.subarray(end).some((byte) => byte !== 0)) return undefined;
  const words = bytes.subarray(0, end);
  return words.every((byte) => byte >= 0x20 && byte < 0x7f)
    ? Buffer.from(words).toString("latin1")
    : undefined;
}

function pairs(bytes: Buffer): string {
  return bytes.toString("hex").replace(/..(?!$)/g, "$& ");
}

function valueText(value: VmstateValue): string {
  if (typeof value === "string") return JSON.stringify(printable(value));
  if (value instanceof Uint8Array) return pairs(Buffer.from(value));
  return Object.is(value, -0) ? "-0" : String(value);
}

function isUnsigned(type: string): boolean {
  return type.startsWith("uint") || type === "cpsr";
}

function isLarge(value: VmstateValue): value is number | bigint {
  return (typeof value === "number" || typeof value === "bigint") && value >= SMALL;
}

function hexText(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}
