/**
 * The types of the vmstate description whose wire form is known: QEMU's names of them (`VMStateInfo.name`), since the
 * description has nothing else.
 *
 * @module
 */

/**
 * A decoded value. Integers of 64 bits are always bigint, smaller ones always number. `null` is a null pointer. Bytes are
 * a view of the payload.
 */
export type VmstateValue = number | bigint | boolean | string | Uint8Array | null;

type Decode = (view: DataView, at: number) => VmstateValue | undefined;

interface Scalar {
  readonly bytes: number;
  /** Undefined when the bytes are none of the type's. */
  readonly decode: Decode;
}

/** What stands for a null pointer in an array of pointers (`VMS_NULLPTR_MARKER`, later `VMS_MARKER_PTR_NULL`). */
export const NULL_POINTER_MARKER = 0x30;
/** `VMS_MARKER_PTR_VALID`: the element itself follows (QEMU 11 and later). */
export const VALID_POINTER_MARKER = 0x31;

/** The one type whose values have lengths of their own, which no description tells: the name of a capability. */
export const CAPABILITY = "capability";

const bool: Scalar = {
  bytes: 1,
  decode: (view, at) => (view.getUint8(at) > 1 ? undefined : view.getUint8(at) === 1),
};
const int8: Scalar = { bytes: 1, decode: (view, at) => view.getInt8(at) };
const int16: Scalar = { bytes: 2, decode: (view, at) => view.getInt16(at) };
const int32: Scalar = { bytes: 4, decode: (view, at) => view.getInt32(at) };
const int64: Scalar = { bytes: 8, decode: (view, at) => view.getBigInt64(at) };
const uint8: Scalar = { bytes: 1, decode: (view, at) => view.getUint8(at) };
const uint16: Scalar = { bytes: 2, decode: (view, at) => view.getUint16(at) };
const uint32: Scalar = { bytes: 4, decode: (view, at) => view.getUint32(at) };
const uint64: Scalar = { bytes: 8, decode: (view, at) => view.getBigUint64(at) };
const float64: Scalar = { bytes: 8, decode: (view, at) => view.getFloat64(at) };
const nullPointer: Scalar = {
  bytes: 1,
  decode: (view, at) => (view.getUint8(at) === NULL_POINTER_MARKER ? null : undefined),
};
const pointerMarker: Scalar = {
  bytes: 1,
  decode: (view, at) => {
    const marker = view.getUint8(at);
    return marker === NULL_POINTER_MARKER ? null : marker === VALID_POINTER_MARKER ? true : undefined;
  },
};

const SCALARS: ReadonlyMap<string, Scalar> = new Map([
  ["bool", bool],
  ["int8", int8],
  ["int16", int16],
  ["int32", int32],
  ["int64", int64],
  ["uint8", uint8],
  ["uint16", uint16],
  ["uint32", uint32],
  ["uint64", uint64],
  // Must be equal to what the destination has.
  ["int32 equal", int32],
  ["uint8 equal", uint8],
  ["uint16 equal", uint16],
  ["uint32 equal", uint32],
  ["uint64 equal", uint64],
  // QEMU's vmstate_info_uint64_equal is called so: unsigned in spite of its name.
  ["int64 equal", uint64],
  // "Less or equal": a count that must not be larger than the destination's. Not little-endian.
  ["int32 le", int32],
  ["float64", float64],
  // A double as two be32, the upper one first: the same bytes.
  ["CPU_Double_U", float64],
  // When it expires, in nanoseconds of its clock; -1: not set.
  ["timer", int64],
  ["nullptr", nullPointer],
  ["ptr-marker", pointerMarker],
  // File descriptor number (CPR); only exec mode has it in the stream.
  ["fd", int32],
  // Registers that have a type of their own because QEMU keeps them in pieces.
  ["cpsr", uint32],
  ["fpscr", uint32],
  ["powered_off", bool],
  ["fpcr", uint64],
  ["fpr", uint64],
  ["vsr", uint64],
  ["sr", uint32],
  ["cpu/altivec/vscr", uint32],
]);

/** Types that are a run of equal words, as many as the field's size has room for. */
const WORDS: ReadonlyMap<string, Scalar> = new Map([
  // Bit n is bit n mod 64 of word n / 64.
  ["bitmap", uint64],
  ["pci irq state", uint32],
  // Segment lookaside buffer entry: ESID, VSID.
  ["slbe", uint64],
  // Vector register: upper, lower half.
  ["avr", uint64],
]);

/** Types that are bytes without more to say of them. */
const BYTES: ReadonlySet<string> = new Set(["buffer", "unused_buffer", "pci config", "msix state"]);

/** Decodes one value of a type with a fixed size; undefined for another type, another size or impossible bytes. */
export function decodeScalar(
  type: string,
  bytes: number,
  view: DataView,
  at: number,
): VmstateValue | undefined {
  const scalar = SCALARS.get(type);
  return scalar?.bytes === bytes ? scalar.decode(view, at) : undefined;
}

/** Whether the type has a known wire form of fixed size. */
export function isScalar(type: string): boolean {
  return SCALARS.has(type);
}

/** Whether the type is plain bytes. */
export function isBytes(type: string): boolean {
  return BYTES.has(type);
}

/** The type and size of the words that a type consists of; undefined for other types and sizes that are no multiple. */
export function wordsOf(type: string, bytes: number): { type: string; bytes: number } | undefined {
  const word = WORDS.get(type);
  if (word === undefined || bytes % word.bytes !== 0) return undefined;
  return { type: word === uint64 ? "uint64" : "uint32", bytes: word.bytes };
}
