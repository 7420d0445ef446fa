import type { DeviceField } from "../../engine/host.js";
import { ByteWriter } from "../../wire/index.js";
import type { EntryNames } from "./state-names.js";
import { checkDepth, damaged, StateBuffer, StateMap, type StateValue } from "./state-tree.js";

/**
 * How a value is laid out: what stands for it in the payload, or the value itself where nothing does (`null`, texts).
 * `i` is a be32, `l` a be64, `d` a be64 double, `b` a byte.
 */
type Layout =
  | "i"
  | "l"
  | "d"
  | "b"
  | null
  | { readonly text: string }
  | { readonly map: Layout }
  | { readonly buffer: string; readonly bytes: number }
  | readonly Layout[];

/** A section's payload, with the description of what it is made of. */
export interface StatePayload {
  readonly payload: Uint8Array;
  readonly fields: readonly DeviceField[];
}

const LENGTH_BYTES = 4;

/**
 * Writes a value as a payload: the length and the text of a layout in JSON, which says what the lists and typed arrays
 * are, then the numbers and buffers themselves, as the fields of a vmstate are.
 */
export function encodePayload(value: StateValue, names: EntryNames | undefined): StatePayload {
  const values = new ByteWriter();
  const valueFields: DeviceField[] = [];
  const layout = writeValue(value, "", names, values, valueFields);
  const text = new TextEncoder().encode(JSON.stringify(layout));
  return {
    payload: new ByteWriter().u32(text.length).raw(text).raw(values.finish()).finish(),
    fields: [
      { name: "layout_length", type: "uint32", size: LENGTH_BYTES },
      { name: "layout", type: "buffer", size: text.length },
      ...valueFields,
    ],
  };
}

/**
 * Reads what {@link encodePayload} wrote. Buffers are views of the payload.
 *
 * @param section For errors.
 * @throws FormatError when it is not that.
 */
export function decodePayload(payload: Uint8Array, section: string): StateValue {
  const reader = new PayloadReader(payload, section);
  const length = reader.view(LENGTH_BYTES).getUint32(0);
  let layout: unknown;
  try {
    layout = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(reader.take(length)));
  } catch (cause) {
    throw damaged(section, cause);
  }
  const value = readValue(layout, reader, 0);
  if (reader.left > 0) throw damaged(section);
  return value;
}

function writeValue(
  value: StateValue,
  path: string,
  names: EntryNames | undefined,
  out: ByteWriter,
  fields: DeviceField[],
): Layout {
  const field = (type: string, size: number): void => void fields.push({ name: path || "value", type, size });
  if (value === null) return null;
  if (typeof value === "string") return { text: value };
  if (typeof value === "boolean") {
    out.u8(value ? 1 : 0);
    field("bool", 1);
    return "b";
  }
  if (typeof value === "number") return writeNumber(value, out, field);
  if (value instanceof StateBuffer) {
    out.raw(value.bytes);
    field("buffer", value.bytes.length);
    return { buffer: value.type, bytes: value.bytes.length };
  }
  if (value instanceof StateMap) return { map: writeValue(value.entries, path, undefined, out, fields) };
  return value.map((item, index) => {
    const known = names?.names[index];
    const name = known === undefined || known === "-" ? `[${index}]` : known;
    const inner = path === "" || name.startsWith("[") ? `${path}${name}` : `${path}.${name}`;
    return writeValue(item, inner, names?.inner?.[name], out, fields);
  });
}

function writeNumber(value: number, out: ByteWriter, field: (type: string, size: number) => void): Layout {
  if (Object.is(value | 0, value)) {
    out.u32(value >>> 0);
    field("int32", 4);
    return "i";
  }
  const bytes = new DataView(new ArrayBuffer(8));
  const whole = Number.isSafeInteger(value) && !Object.is(value, -0);
  if (whole) bytes.setBigInt64(0, BigInt(value));
  else bytes.setFloat64(0, value);
  out.raw(new Uint8Array(bytes.buffer));
  field(whole ? "int64" : "float64", 8);
  return whole ? "l" : "d";
}

function readValue(layout: unknown, reader: PayloadReader, depth: number): StateValue {
  checkDepth(depth, reader.section);
  if (Array.isArray(layout)) return layout.map((item: unknown) => readValue(item, reader, depth + 1));
  switch (layout) {
    case null:
      return null;
    case "b":
      return reader.view(1).getUint8(0) !== 0;
    case "i":
      return reader.view(4).getInt32(0);
    case "l":
      return Number(reader.view(8).getBigInt64(0));
    case "d":
      return reader.view(8).getFloat64(0);
  }
  if (typeof layout !== "object") throw damaged(reader.section);
  const { text, map, buffer, bytes } = layout as Readonly<Record<string, unknown>>;
  if (typeof text === "string") return text;
  if (map !== undefined) return new StateMap(readValue(map, reader, depth + 1));
  if (typeof buffer !== "string" || typeof bytes !== "number") throw damaged(reader.section);
  return new StateBuffer(buffer, reader.take(bytes));
}

class PayloadReader {
  readonly section: string;
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array, section: string) {
    this.#bytes = bytes;
    this.section = section;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  /** @throws FormatError when there are not so many bytes left. */
  take(count: number): Uint8Array {
    if (!Number.isSafeInteger(count) || count < 0 || count > this.left) throw damaged(this.section);
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }

  view(count: number): DataView {
    const { buffer, byteOffset } = this.take(count);
    return new DataView(buffer, byteOffset, count);
  }
}
