import { FormatError } from "../../errors/index.js";

/** `STATE_VERSION` of v86: the version of our sections, and the only one whose entries are known here. */
export const V86_STATE_VERSION = 6;

/** `STATE_MAGIC`, little-endian like all of v86's header. */
const STATE_MAGIC = 0x86768676;
const HEADER_BYTES = 16;
/** v86's own states are some 6 deep. */
const MAX_DEPTH = 32;

/** The typed arrays that v86 knows, with the bytes of an element. */
const ELEMENT_BYTES: ReadonlyMap<string, number> = new Map([
  ["Uint8Array", 1],
  ["Int8Array", 1],
  ["Uint16Array", 2],
  ["Int16Array", 2],
  ["Uint32Array", 4],
  ["Int32Array", 4],
  ["Float32Array", 4],
  ["Float64Array", 8],
]);

/** A typed array in a state. */
export class StateBuffer {
  /** Name of its class: `Int32Array`. */
  readonly type: string;
  readonly bytes: Uint8Array;

  /** @throws FormatError for a class that v86 does not know, or a part of an element. */
  constructor(type: string, bytes: Uint8Array) {
    const elementBytes = ELEMENT_BYTES.get(type);
    if (elementBytes === undefined || bytes.length % elementBytes !== 0) throw damaged();
    this.type = type;
    this.bytes = bytes;
  }
}

/** A `Map` in a state: a list of pairs. */
export class StateMap {
  readonly entries: StateValue;

  constructor(entries: StateValue) {
    this.entries = entries;
  }
}

/** A value in a state; `null` is also what v86 leaves out. */
export type StateValue = number | boolean | string | null | StateBuffer | StateMap | readonly StateValue[];

/** The state of a v86's `CPU`: registers and devices by number. */
export type StateTree = readonly StateValue[];

/**
 * Reads a state in v86's format (`state.js`): a header, JSON, and the buffers that the JSON refers to.
 *
 * @throws FormatError when the bytes are no whole state of version {@link V86_STATE_VERSION}.
 */
export function parseState(bytes: Uint8Array): StateTree {
  if (bytes.length < HEADER_BYTES) throw damaged();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== STATE_MAGIC) throw damaged();
  checkVersion(view.getUint32(4, true));
  const infoEnd = HEADER_BYTES + view.getUint32(12, true);
  if (view.getUint32(8, true) !== bytes.length || infoEnd > bytes.length) throw damaged();
  const info = parseJson(bytes.subarray(HEADER_BYTES, infoEnd));
  const buffers = cutBuffers(memberOf(info, "buffer_infos"), bytes.subarray(aligned(infoEnd)));
  const tree = fromJson(memberOf(info, "state"), buffers, 0);
  if (!isList(tree)) throw damaged();
  return tree;
}

/** Writes a state in v86's format; what {@link parseState} read comes out byte for byte. */
export function buildState(tree: StateTree): Uint8Array<ArrayBuffer> {
  const buffers: Uint8Array[] = [];
  const state = toJson(tree, buffers);
  let total = 0;
  const infos = buffers.map(({ length }) => {
    const offset = total;
    total = aligned(total + length);
    return { offset, length };
  });
  const info = new TextEncoder().encode(JSON.stringify({ buffer_infos: infos, state }));
  const start = aligned(HEADER_BYTES + info.length);
  const bytes = new Uint8Array(start + total);
  const view = new DataView(bytes.buffer);
  [STATE_MAGIC, V86_STATE_VERSION, bytes.length, info.length].forEach((word, index) =>
    view.setUint32(index * 4, word, true),
  );
  bytes.set(info, HEADER_BYTES);
  for (const [index, buffer] of buffers.entries()) bytes.set(buffer, start + (infos[index]?.offset ?? 0));
  return bytes;
}

/** @throws FormatError `unsupported` for every version but {@link V86_STATE_VERSION}. */
export function checkVersion(version: number, section?: string): void {
  if (version === V86_STATE_VERSION) return;
  throw new FormatError("unsupported", "The device state is of a v86 with another state format", {
    ...(section === undefined ? {} : { section }),
    expected: `version ${V86_STATE_VERSION}`,
    actual: `version ${version}`,
    hint: "restore it with the v86 release that it was saved with",
  });
}

/** Whether a value is a list, and no typed array. */
export function isList(value: StateValue | undefined): value is readonly StateValue[] {
  return Array.isArray(value);
}

/** The error for a state that is not as v86 makes it. */
export function damaged(section?: string, cause?: unknown): FormatError {
  const place = section === undefined ? {} : { section };
  return new FormatError("malformed", "The state of v86 is damaged", place, cause);
}

/** @throws FormatError when lists stand in lists too deep. */
export function checkDepth(depth: number, section?: string): void {
  if (depth > MAX_DEPTH) throw damaged(section);
}

function aligned(length: number): number {
  return (length + 3) & -4;
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw damaged(undefined, cause);
  }
}

function cutBuffers(infos: unknown, room: Uint8Array): Uint8Array[] {
  if (!Array.isArray(infos)) throw damaged();
  return infos.map((info: unknown) => {
    const offset = memberOf(info, "offset");
    const length = memberOf(info, "length");
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length)) throw damaged();
    const [start, end] = [Number(offset), Number(offset) + Number(length)];
    if (start < 0 || end < start || end > room.length) throw damaged();
    return room.subarray(start, end);
  });
}

function fromJson(value: unknown, buffers: readonly Uint8Array[], depth: number): StateValue {
  checkDepth(depth);
  if (Array.isArray(value)) return value.map((item: unknown) => fromJson(item, buffers, depth + 1));
  if (value === null || ["number", "boolean", "string"].includes(typeof value)) return value as StateValue;
  const type = memberOf(value, "__state_type__");
  if (type === "Map") return new StateMap(fromJson(memberOf(value, "args"), buffers, depth + 1));
  const bytes = buffers[Number(memberOf(value, "buffer_id"))];
  if (typeof type !== "string" || bytes === undefined) throw damaged();
  return new StateBuffer(type, bytes);
}

function toJson(value: StateValue, buffers: Uint8Array[]): unknown {
  if (value instanceof StateBuffer)
    return { __state_type__: value.type, buffer_id: buffers.push(value.bytes) - 1 };
  if (value instanceof StateMap) return { __state_type__: "Map", args: toJson(value.entries, buffers) };
  return isList(value) ? value.map((item) => toJson(item, buffers)) : value;
}

function memberOf(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, name)
    ? Reflect.get(value, name)
    : undefined;
}
