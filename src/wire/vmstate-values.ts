import { assert, FormatError, printable } from "../errors/index.js";
import { ByteReader } from "./byte-reader.js";
import { SectionType } from "./constants.js";
import type {
  UndecodedReason,
  VmstateEnd,
  VmstateEvent,
  VmstateGroup,
  VmstateLeaf,
  VmstatePlace,
} from "./vmstate-events.js";
import { type ElasticField, fitLayout, type LayoutFit } from "./vmstate-fit.js";
import {
  type DeviceLayout,
  type FieldLayout,
  subsectionHeadBytes,
  type VmsdLayout,
} from "./vmstate-layout.js";
import { isListType, listItems } from "./vmstate-lists.js";
import {
  CAPABILITY,
  decodeScalar,
  isBytes,
  isScalar,
  NULL_POINTER_MARKER,
  VALID_POINTER_MARKER,
  type VmstateValue,
  wordsOf,
} from "./vmstate-scalars.js";

/** What to decode. */
export interface VmstateSource {
  /** Name of the section: the outermost group's name, and for errors. */
  readonly section: string;
  readonly payload: Uint8Array;
  /** Offset of the payload in the file or stream. */
  readonly payloadOffset: number;
  /** Most nodes to yield. */
  readonly maxNodes?: number;
}

/**
 * Nodes of one device's values. A pseries IOMMU with a full table has 262,146; a payload of 64 MiB of single bytes is
 * more than anybody reads.
 */
const MAX_NODES = 16 * 1024 * 1024;

/**
 * Events that are gathered before they are handed up: each yield passes through a generator a level of structs, which
 * costs more than the decoding.
 */
const BATCH_EVENTS = 256;

const END: VmstateEnd = { kind: "end" };

/**
 * Applies a device's description to its payload. Every byte of the payload is in exactly one value, subsection header or
 * mark between a list's items; where the description does not say enough, or contradicts the bytes' number, in a value of
 * raw bytes that says why.
 *
 * Nothing is kept: what a caller wants to have together is for {@link buildVmstateTree}.
 *
 * @param layout The device's entry, undefined when it has none.
 * @throws FormatError while iterating, with offset and field path: `malformed` when a subsection is not where the
 *   description has it, `truncated` or `inconsistent` when elements with lengths of their own do not fit the payload,
 *   `limit-exceeded` beyond `maxNodes`.
 */
export function decodeVmstate(
  layout: DeviceLayout | VmsdLayout | undefined,
  source: VmstateSource,
): Generator<VmstateEvent, void, undefined> {
  return new VmstateDecoder(source).events(layout);
}

/** What the decoder's own generators yield: nothing but the moment to hand up what was gathered. */
type Steps = Generator<undefined, void, undefined>;
type Mutable<T> = { -readonly [Key in keyof T]: T[Key] };
type ElementPlace = Pick<VmstatePlace, "name" | "type" | "index">;

/** Where a decoding stands. Generators of one device share it. */
class VmstateDecoder {
  readonly #source: VmstateSource;
  readonly #view: DataView;
  readonly #path: string[] = [];
  readonly #maxNodes: number;
  /** Index of the next byte in the payload. */
  #at = 0;
  #nodes = 0;
  #batch: VmstateEvent[] = [];
  #elastic: ElasticField | undefined;

  constructor(source: VmstateSource) {
    const { payload } = source;
    this.#source = source;
    this.#view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    this.#maxNodes = source.maxNodes ?? MAX_NODES;
  }

  *events(layout: VmsdLayout | undefined): Generator<VmstateEvent, void, undefined> {
    const steps = this.#device(layout);
    try {
      while (steps.next().done !== true) yield* this.#take();
    } catch (error) {
      // What stands before the damage comes before the error.
      yield* this.#take();
      throw error;
    }
    yield* this.#take();
  }

  #take(): VmstateEvent[] {
    const batch = this.#batch;
    this.#batch = [];
    return batch;
  }

  get #isFull(): boolean {
    return this.#batch.length >= BATCH_EVENTS;
  }

  *#device(layout: VmsdLayout | undefined): Steps {
    const { section, payload } = this.#source;
    const fit: LayoutFit =
      layout === undefined ? { reason: "no-description" } : fitLayout(layout, payload.length);
    this.#open("struct", { name: section, type: "struct" }, payload.length, layout);
    if (layout === undefined || fit.reason !== undefined) {
      this.#raw({ name: "data", type: "buffer" }, payload.length, fit.reason);
    } else {
      this.#elastic = fit.elastic;
      yield* this.#vmsd(layout);
      if (this.#at !== payload.length) {
        throw this.#error("inconsistent", "Fields with lengths of their own do not add up to the payload", {
          expected: `${payload.length} bytes`,
          actual: `${this.#at} bytes`,
        });
      }
    }
    this.#close();
  }

  *#vmsd(vmsd: VmsdLayout): Steps {
    const fields = vmsd.fields ?? [];
    let next = 0;
    while (next < fields.length) {
      // QEMU makes names unique, so that neighbours of one name are elements of one array: elements that may differ
      // have an entry each, with `index` in QEMU 10.0 and older and nothing to tell them in later ones.
      const group = sameName(fields, next);
      next += group.length;
      const [field] = group;
      if (field === undefined) break;
      if (group.length > 1 || field.isArray) yield* this.#array(field, group);
      else if (isPlain(field)) this.#leaf(field, field.bytes);
      else yield* this.#element(field, field);
      if (this.#isFull) yield;
    }
    for (const subsection of vmsd.subsections) yield* this.#subsection(subsection);
  }

  *#array(first: FieldLayout, group: readonly FieldLayout[]): Steps {
    if (this.#elastic?.field === first) {
      this.#raw(first, this.#elastic.bytes, "size-mismatch");
      return;
    }
    const size = this.#wireBytes({ fields: group, subsections: [] }, this.#at);
    const type = group.find(({ type: other }) => other !== "nullptr" && other !== "ptr-marker")?.type;
    this.#open("array", { name: first.name, type: type ?? first.type }, size);
    let index = 0;
    for (const field of group) {
      const { name, type: fieldType, bytes } = field;
      // Elements without bytes are only counted: there may be any number of them.
      const end = index + field.count;
      if (bytes === 0) index = end;
      while (index < end) {
        const place = { name, type: fieldType, index };
        const isMarker =
          fieldType === "ptr-marker" && field.count === 1 && this.#peek() === VALID_POINTER_MARKER;
        // Arrays of numbers are the bulk of all values: no generator for each.
        if (isScalar(fieldType)) this.#leaf(place, bytes);
        else yield* this.#element(place, field);
        if (this.#isFull) yield;
        // What such a mark announces is the element.
        if (isMarker) break;
        index += 1;
      }
    }
    this.#close();
  }

  *#element(place: ElementPlace, field: FieldLayout): Steps {
    const { type, bytes, struct, inline } = field;
    const [content] = inline;
    if (type === CAPABILITY) this.#capability(place);
    else if (struct !== undefined) yield* this.#struct(place, bytes, struct);
    else if (isListType(type)) yield* this.#list(place, field);
    else if (content !== undefined && inline.length === 1) yield* this.#struct(place, bytes, content);
    else {
      const words = wordsOf(type, bytes);
      if (words === undefined) this.#leaf(place, bytes);
      else {
        this.#open("array", place, bytes);
        for (let index = 0; index < bytes / words.bytes; index++) {
          this.#leaf({ name: place.name, type: words.type, index }, words.bytes);
          if (this.#isFull) yield;
        }
        this.#close();
      }
    }
  }

  *#struct(place: ElementPlace, size: number, vmsd: VmsdLayout): Steps {
    if (vmsd.fields === undefined && size === 1 && this.#peek() === NULL_POINTER_MARKER) {
      this.#value(place, 1, null);
    } else if (vmsd.bytes !== size) {
      this.#raw(place, size, vmsd.bytes === undefined ? "no-description" : "size-mismatch");
    } else {
      this.#open("struct", place, size, vmsd);
      yield* this.#vmsd(vmsd);
      this.#close();
    }
  }

  *#list(place: ElementPlace, field: FieldLayout): Steps {
    const start = this.#at;
    const items = listItems(field, this.#view, start);
    if (items === undefined) {
      this.#raw(place, field.bytes, field.inline.length === 0 ? "no-description" : "impossible-value");
      return;
    }
    this.#open("list", place, field.bytes);
    for (const { name, index, at, vmsd } of items) {
      // Between the items stand the marks that say whether another one comes.
      this.#at = at;
      if (vmsd === undefined) this.#leaf({ name, type: "uint64", index }, 8);
      else yield* this.#struct({ name, type: "struct", index }, vmsd.bytes ?? 0, vmsd);
      if (this.#isFull) yield;
    }
    this.#at = start + field.bytes;
    this.#close();
  }

  *#subsection(vmsd: VmsdLayout): Steps {
    const { payload, payloadOffset } = this.#source;
    const { name = "", version } = vmsd;
    const offset = payloadOffset + this.#at;
    const reader = new ByteReader(payload.subarray(this.#at), offset);
    this.#path.push(name);
    const found = this.#within(() => ({
      type: reader.u8(),
      name: reader.idstr("subsection's name"),
      version: reader.u32(),
    }));
    const place = { offset, section: this.#source.section };
    if (found.type !== SectionType.SUBSECTION || found.name !== name) {
      throw new FormatError(
        "malformed",
        `A subsection is not where the description has it, at ${this.#where()}`,
        {
          ...place,
          expected: name,
          actual: found.type === SectionType.SUBSECTION ? found.name : `byte 0x${found.type.toString(16)}`,
        },
      );
    }
    if (version !== undefined && found.version !== version) {
      const message = `A subsection and its description have different versions, at ${this.#where()}`;
      throw new FormatError("malformed", message, { ...place, expected: version, actual: found.version });
    }
    this.#path.pop();
    const size = reader.position + this.#wireBytes(vmsd, this.#at + reader.position);
    this.#open("subsection", { name, type: "subsection" }, size, vmsd);
    this.#at += reader.position;
    yield* this.#vmsd(vmsd);
    this.#close();
  }

  /** Bytes of fields and subsections that begin at `start`: what the description says, but for capabilities. */
  #wireBytes({ fields = [], subsections, bytes }: VmsdLayout, start: number): number {
    if (bytes !== undefined && !fields.some(({ type }) => type === CAPABILITY)) return bytes;
    let at = start;
    for (const { type, bytes: each, count } of fields) {
      if (type !== CAPABILITY) at += each * count;
      // Not more of them than there are bytes, whatever the count is.
      else
        for (let left = count; left > 0 && at < this.#view.byteLength; left--)
          at += 1 + this.#view.getUint8(at);
    }
    for (const { name = "", bytes: each = 0 } of subsections) at += subsectionHeadBytes(name) + each;
    return at - start;
  }

  /** The name of a capability: the one type whose elements differ in length and are described by the first one. */
  #capability(place: ElementPlace): void {
    const { payload, payloadOffset } = this.#source;
    const reader = new ByteReader(payload.subarray(this.#at), payloadOffset + this.#at);
    const text = this.#within(() => reader.idstr("capability's name"));
    this.#value(place, reader.position, text);
  }

  #leaf(place: ElementPlace, size: number): void {
    const { type } = place;
    // All sizes were added up before: what is missing here is only the value.
    const value = size <= this.#left ? decodeScalar(type, size, this.#view, this.#at) : undefined;
    if (value !== undefined) this.#value(place, size, value);
    else if (isBytes(type)) this.#raw(place, size, undefined);
    else this.#raw(place, size, isScalar(type) ? "impossible-value" : "unknown-type");
  }

  #raw(place: ElementPlace, size: number, undecoded: UndecodedReason | undefined): void {
    const bytes = this.#source.payload.subarray(this.#at, this.#at + size);
    this.#value(place, size, bytes, undecoded);
  }

  #value(
    { name, type, index }: ElementPlace,
    size: number,
    value: VmstateValue,
    undecoded?: UndecodedReason,
  ): void {
    if (size > this.#left) {
      this.#path.push(name);
      throw this.#error("truncated", "The payload ends inside a field", {
        expected: `${size} bytes`,
        actual: `${this.#left} bytes`,
      });
    }
    this.#count(name);
    const offset = this.#source.payloadOffset + this.#at;
    this.#at += size;
    // Put together by hand: spreading would cost as much as all else.
    const leaf: Mutable<VmstateLeaf> =
      index === undefined
        ? { kind: "value", name, type, offset, size, value }
        : { kind: "value", name, index, type, offset, size, value };
    if (undecoded !== undefined) leaf.undecoded = undecoded;
    this.#batch.push(leaf);
  }

  #open(
    kind: VmstateGroup["kind"],
    { name, type, index }: ElementPlace,
    size: number,
    vmsd?: VmsdLayout,
  ): void {
    this.#count(name);
    this.#path.push(index === undefined ? name : `[${index}]`);
    const offset = this.#source.payloadOffset + this.#at;
    const group: Mutable<VmstateGroup> =
      index === undefined ? { kind, name, type, offset, size } : { kind, name, index, type, offset, size };
    if (vmsd?.name !== undefined) group.vmsdName = vmsd.name;
    if (vmsd?.version !== undefined) group.version = vmsd.version;
    this.#batch.push(group);
  }

  #close(): void {
    assert(this.#path.pop() !== undefined, "a vmstate group ends that never began");
    this.#batch.push(END);
  }

  #count(name: string): void {
    if (++this.#nodes <= this.#maxNodes) return;
    this.#path.push(name);
    throw this.#error("limit-exceeded", "A device has too many values", {
      expected: `at most ${this.#maxNodes}`,
    });
  }

  get #left(): number {
    return this.#source.payload.length - this.#at;
  }

  #peek(): number | undefined {
    return this.#source.payload[this.#at];
  }

  /** Adds the place to what a reader of single fields throws. */
  #within<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      throw this.#error(error.code, "A field cannot be read", {}, error);
    }
  }

  #error(
    code: FormatError["code"],
    message: string,
    data: { readonly expected?: string; readonly actual?: string },
    cause?: unknown,
  ): FormatError {
    const offset = this.#source.payloadOffset + this.#at;
    const place = { offset, section: this.#source.section, ...data };
    return new FormatError(code, `${message}, at ${this.#where()}`, place, cause);
  }

  #where(): string {
    return printable(this.#path.slice(1).join("/") || "the device itself");
  }
}

/** The entries from `start` on that have the same name. */
function sameName(fields: readonly FieldLayout[], start: number): readonly FieldLayout[] {
  const name = fields[start]?.name;
  let end = start + 1;
  while (end < fields.length && fields[end]?.name === name) end += 1;
  return fields.slice(start, end);
}

/** Whether a field is one value and nothing else. */
function isPlain({ type, struct, inline }: FieldLayout): boolean {
  return struct === undefined && inline.length === 0 && isScalar(type);
}
