import type { VmstateValue } from "./vmstate-scalars.js";

/** Why bytes stay bytes. */
export type UndecodedReason =
  /** The description has no fields for them. */
  | "no-description"
  /** A type whose wire form ramport does not know: the device writes it with code of its own. */
  | "unknown-type"
  /** The description's sizes contradict each other or the payload. */
  | "size-mismatch"
  /** The sizes fit, but such bytes cannot be of that type. */
  | "impossible-value";

/** What each node of a device's values has. */
export interface VmstatePlace {
  /** As the description has it: may hold any character, and may repeat among its neighbours. */
  readonly name: string;
  /** In an array or a list: its place there, from 0. */
  readonly index?: number;
  /** QEMU's name of the type. */
  readonly type: string;
  /** Where it starts, as an offset in the file or stream. */
  readonly offset: number;
  /** Bytes on the wire. */
  readonly size: number;
}

/** Something with parts, which follow it in the order of the wire. */
export interface VmstateGroup extends VmstatePlace {
  /**
   * A subsection's size and offset include its own header. `list` is a queue, list or tree; its items are structs, or
   * for a tree pairs of struct items with the names `key` and `value`.
   */
  readonly kind: "struct" | "subsection" | "array" | "list";
  /** Name and version of its vmsd (structs and subsections). */
  readonly vmsdName?: string;
  readonly version?: number;
}

/** A value. */
export interface VmstateLeaf extends VmstatePlace {
  readonly kind: "value";
  readonly value: VmstateValue;
  /** Set when the value is bytes only because they could not be decoded. */
  readonly undecoded?: UndecodedReason;
}

/** The end of the group that was opened last. */
export interface VmstateEnd {
  readonly kind: "end";
}

/** What `decodeVmstate` yields: groups that open, values, and groups that end. */
export type VmstateEvent = VmstateGroup | VmstateLeaf | VmstateEnd;
