import { printable } from "../errors/index.js";
import type { UndecodedReason, VmstateEvent, VmstateGroup, VmstateLeaf } from "../wire/index.js";
import { isByteLeaf, leafText, ValueList, wrapped } from "./tree-values.js";

/** How a device's tree is drawn. */
export interface TreeOptions {
  /** The device's payload, and its place in the file: elements are compared by their bytes. */
  readonly payload: Uint8Array;
  readonly payloadOffset: number;
  /** Columns of the terminal. */
  readonly width: number;
  /** Bytes of a buffer, and elements of an array or list, that are shown. */
  readonly limit: number;
}

type Events = Iterator<VmstateEvent, void>;

const INDENT = "  ";
const REASONS: Readonly<Record<UndecodedReason, string>> = {
  "no-description": "not described",
  "unknown-type": "of a type that ramport does not know",
  "size-mismatch": "not as long as described",
  "impossible-value": "no such value",
};

/**
 * A device's values as indented lines. Text from the file is made safe to print.
 *
 * Nothing but the line that grows is kept, however large the device is.
 *
 * @throws FormatError what the events' generator throws, between two lines.
 */
export function* treeLines(
  events: Iterable<VmstateEvent>,
  options: TreeOptions,
): Generator<string, void, undefined> {
  const iterator = events[Symbol.iterator]() as Events;
  // The device itself: its head is the caller's.
  const first = iterator.next();
  if (first.done !== true && first.value.kind !== "end") yield* new Tree(iterator, options).fields(INDENT);
}

class Tree {
  readonly #events: Events;
  readonly #options: TreeOptions;

  constructor(events: Events, options: TreeOptions) {
    this.#events = events;
    this.#options = options;
  }

  /** What stands in a struct or subsection, up to its end. */
  *fields(indent: string): Generator<string, void, undefined> {
    for (let event = this.#next(); event.kind !== "end"; event = this.#next()) {
      yield* this.#node(event, printable(event.name), indent);
    }
  }

  *#node(
    event: VmstateLeaf | VmstateGroup,
    label: string,
    indent: string,
  ): Generator<string, void, undefined> {
    if (event.kind === "value") yield* this.#leaf(event, label, indent);
    else if (event.kind === "array" || event.kind === "list") yield* this.#elements(event, label, indent);
    else {
      const type = event.vmsdName ?? "";
      const what =
        event.kind === "subsection"
          ? ` (subsection, version ${event.version ?? 0})`
          : type === "" || type === event.name
            ? ""
            : ` (${printable(type)})`;
      yield `${indent}${label}${what}:${event.size === 0 ? " nothing" : ""}`;
      yield* this.fields(indent + INDENT);
    }
  }

  #leaf(leaf: VmstateLeaf, label: string, indent: string): string[] {
    const reason =
      leaf.undecoded === undefined
        ? ""
        : `${REASONS[leaf.undecoded]}${leaf.type === "buffer" ? "" : ` (${printable(leaf.type)})`}, `;
    const { text, rows } = leafText(leaf, this.#options.limit, this.#options.width - indent.length - 2);
    return [`${indent}${label}: ${reason}${text}`, ...rows.map((row) => indent + INDENT + row)];
  }

  /** An array of plain values is one line that wraps; one of anything else has its elements below it. */
  *#elements(group: VmstateGroup, label: string, indent: string): Generator<string, void, undefined> {
    const inner = indent + INDENT;
    let shown = 0;
    let skipped = 0;
    let before: VmstateGroup | VmstateLeaf | undefined;
    let alike = 0;
    let headed = false;
    const plain = new ValueList(this.#options.limit);
    const sameAs = (): string[] => {
      const first = before?.index ?? 0;
      const range = alike === 1 ? `[${first + 1}]` : `[${first + 1}..${first + alike}]`;
      const lines = alike === 0 ? [] : [`${inner}${range}: the same as [${first}]`];
      alike = 0;
      return lines;
    };
    for (let event = this.#next(); event.kind !== "end"; event = this.#next()) {
      if (!headed && event.kind === "value" && !isByteLeaf(event)) {
        plain.add(event);
        continue;
      }
      if (!headed) {
        yield `${indent}${label}[]:`;
        headed = true;
        for (const { leaf, count } of plain.runs) {
          yield* this.#leaf(leaf, elementLabel(leaf, group), inner);
          before = leaf;
          alike = count - 1;
          yield* sameAs();
        }
      }
      if (before !== undefined && this.#isSame(before, event)) {
        alike += 1;
        this.#skip(event);
      } else if (shown >= this.#options.limit) {
        yield* sameAs();
        before = undefined;
        skipped += 1;
        this.#skip(event);
      } else {
        yield* sameAs();
        yield* this.#node(event, elementLabel(event, group), inner);
        before = event;
        shown += 1;
      }
    }
    yield* sameAs();
    if (skipped > 0) yield `${inner}... ${skipped} more`;
    if (headed) return;
    yield* wrapped(`${indent}${label}[${plain.count}]: `, plain.texts(), inner, this.#options.width);
  }

  /** Whether two elements have the same type and bytes, and so the same values. */
  #isSame(a: VmstateGroup | VmstateLeaf, b: VmstateGroup | VmstateLeaf): boolean {
    if (a.name !== b.name || a.type !== b.type || a.size !== b.size) return false;
    if (a.kind !== b.kind || a.kind === "list") return false;
    if (a.kind !== "value" && b.kind !== "value" && a.vmsdName !== b.vmsdName) return false;
    const { payload, payloadOffset } = this.#options;
    const bytesOf = ({ offset, size }: VmstateGroup | VmstateLeaf): Buffer =>
      Buffer.from(payload.buffer, payload.byteOffset + offset - payloadOffset, size);
    return bytesOf(a).equals(bytesOf(b));
  }

  #skip(event: VmstateGroup | VmstateLeaf): void {
    let depth = event.kind === "value" ? 0 : 1;
    while (depth > 0) {
      const { kind } = this.#next();
      if (kind === "end") depth -= 1;
      else if (kind !== "value") depth += 1;
    }
  }

  #next(): VmstateEvent {
    const { done, value } = this.#events.next();
    return done === true ? { kind: "end" } : value;
  }
}

/** A list's items may have names, as a tree's keys and values do. */
function elementLabel(element: VmstateGroup | VmstateLeaf, parent: VmstateGroup): string {
  const index = `[${element.index ?? 0}]`;
  return element.name === parent.name || element.name === "" ? index : `${index} ${printable(element.name)}`;
}
