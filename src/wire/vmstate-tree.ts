import { FormatError } from "../errors/index.js";
import type { VmstateEvent, VmstateGroup, VmstateLeaf } from "./vmstate-events.js";
import type { VmstateValue } from "./vmstate-scalars.js";

/** A group with its parts. */
export interface VmstateBranch extends VmstateGroup {
  readonly children: readonly VmstateNode[];
}

/** A device's values as a tree. */
export type VmstateNode = VmstateBranch | VmstateLeaf;

/**
 * Collects the events of one device into a tree.
 *
 * @throws FormatError what the events' generator throws, and `truncated` when it ends too early.
 */
export function buildVmstateTree(events: Iterable<VmstateEvent>): VmstateBranch {
  const open: { readonly group: VmstateGroup; readonly children: VmstateNode[] }[] = [];
  for (const event of events) {
    if (event.kind === "value") open.at(-1)?.children.push(event);
    else if (event.kind !== "end") open.push({ group: event, children: [] });
    else {
      const closed = open.pop();
      if (closed === undefined) break;
      const branch = { ...closed.group, children: closed.children };
      const parent = open.at(-1);
      if (parent === undefined) return branch;
      parent.children.push(branch);
    }
  }
  throw new FormatError("truncated", "The device's values end too early");
}

/**
 * Finds a node below another one: a step is a name in a struct, or an index in an array or list (in a tree, that of the
 * first node with it: the key).
 */
export function findVmstateNode(
  from: VmstateNode,
  ...path: readonly (string | number)[]
): VmstateNode | undefined {
  let node: VmstateNode | undefined = from;
  for (const step of path) {
    if (node === undefined || node.kind === "value") return undefined;
    node = node.children.find((child) => (typeof step === "number" ? child.index : child.name) === step);
  }
  return node;
}

/**
 * A value for JSON, without loss: integers of 64 bits become decimal strings, whatever their size, so that a field's type
 * does not depend on its value; bytes become `hex:` and their digits; numbers that JSON has no text for become strings.
 */
export function vmstateValueToJson(value: VmstateValue): string | number | boolean | null {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return `hex:${hexDigits(value)}`;
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0))) {
    return Object.is(value, -0) ? "-0" : String(value);
  }
  return value;
}

/** Text is handed out in pieces of about this. */
const PIECE_CHARACTERS = 1 << 14;

/**
 * The events of one device as JSON text, piece by piece: structs and subsections are objects with the names of their
 * fields, arrays and lists are arrays; a tree is an array of keys and values in turn. A name that repeats in an object
 * gets `#2`, `#3` behind it.
 *
 * @throws FormatError what the events' generator throws, in the middle of the text.
 */
export function* vmstateJson(events: Iterable<VmstateEvent>): Generator<string, void, undefined> {
  const open: { readonly names: Map<string, number> | undefined; empty: boolean }[] = [];
  let parent: (typeof open)[number] | undefined;
  let text = "";
  for (const event of events) {
    if (text.length >= PIECE_CHARACTERS) {
      yield text;
      text = "";
    }
    if (event.kind === "end") {
      text += open.pop()?.names === undefined ? "]" : "}";
      parent = open.at(-1);
      continue;
    }
    if (parent !== undefined) {
      if (!parent.empty) text += ",";
      parent.empty = false;
      if (parent.names !== undefined) text += `${JSON.stringify(uniqueName(parent.names, event.name))}:`;
    }
    if (event.kind === "value") text += JSON.stringify(vmstateValueToJson(event.value));
    else {
      const isObject = event.kind === "struct" || event.kind === "subsection";
      parent = { names: isObject ? new Map() : undefined, empty: true };
      open.push(parent);
      text += isObject ? "{" : "[";
    }
  }
  yield text;
}

function uniqueName(names: Map<string, number>, name: string): string {
  const before = names.get(name) ?? 0;
  names.set(name, before + 1);
  if (before === 0) return name;
  const numbered = `${name}#${before + 1}`;
  return names.has(numbered) ? uniqueName(names, numbered) : (names.set(numbered, 1), numbered);
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

function hexDigits(bytes: Uint8Array): string {
  let digits = "";
  for (const byte of bytes) digits += HEX[byte] ?? "";
  return digits;
}
