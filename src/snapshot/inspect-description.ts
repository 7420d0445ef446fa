import {
  entriesOf,
  isArray,
  isObject,
  type JsonEntries,
  type JsonValue,
  objectOf,
  scanJson,
} from "../wire/vmstate-json-scan.js";

/** Which of a description's devices are wanted. */
export type DeviceFilter = (name: string, instance: number) => boolean;

/**
 * A vmstate description as indented JSON, line by line. Repeated keys, which QEMU writes for lists and trees, stay; what
 * could control a terminal is escaped, so that the lines can be printed and still mean the same.
 *
 * @param text A description that was parsed before: its errors are not looked for.
 */
export function* descriptionLines(text: string, wanted?: DeviceFilter): Generator<string, void, undefined> {
  const root = scanJson(text, 0);
  yield* lines(wanted === undefined ? root : filterDevices(root, wanted), "", "", "");
}

function filterDevices(root: JsonValue, wanted: DeviceFilter): JsonValue {
  if (!isObject(root)) return root;
  const isWanted = (device: JsonValue): boolean => {
    if (!isObject(device)) return false;
    const { name, instance_id: instance } = device;
    return typeof name === "string" && wanted(name, Number(instance));
  };
  const entries = entriesOf(root).map(([key, value]) => {
    const kept = key === "devices" && isArray(value) ? value.filter(isWanted) : value;
    return [key, kept] as const;
  });
  return objectOf(entries);
}

/** @param before What stands in front of the value on its first line, `after` behind it on its last. */
function* lines(
  value: JsonValue,
  indent: string,
  before: string,
  after: string,
): Generator<string, void, undefined> {
  const items = isObject(value) ? entriesOf(value) : isArray(value) ? value : undefined;
  if (items === undefined || items.length === 0 || isFlat(value)) {
    yield `${indent}${before}${compact(value)}${after}`;
    return;
  }
  yield `${indent}${before}${isObject(value) ? "{" : "["}`;
  for (const [index, item] of items.entries()) {
    const comma = index === items.length - 1 ? "" : ",";
    if (isObject(value)) {
      const [key, content] = item as JsonEntries[number];
      yield* lines(content, `${indent}  `, `${quoted(key)}: `, comma);
    } else yield* lines(item, `${indent}  `, "", comma);
  }
  yield `${indent}${isObject(value) ? "}" : "]"}${after}`;
}

/** A field of a simple type: four or five short entries, which are read better on one line. */
function isFlat(value: JsonValue): boolean {
  return isObject(value) && entriesOf(value).every(([, item]) => typeof item !== "object" || item === null);
}

function compact(value: JsonValue): string {
  if (isObject(value)) {
    if (entriesOf(value).length === 0) return "{}";
    return `{ ${entriesOf(value)
      .map(([key, item]) => `${quoted(key)}: ${compact(item)}`)
      .join(", ")} }`;
  }
  if (isArray(value)) return value.length === 0 ? "[]" : `[${value.map(compact).join(", ")}]`;
  return typeof value === "string" ? quoted(value) : JSON.stringify(value);
}

function quoted(text: string): string {
  return JSON.stringify(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    // Characters beyond 16 bits are two escapes.
    Array.from(
      { length: character.length },
      (_, unit) => `\\u${character.charCodeAt(unit).toString(16).padStart(4, "0")}`,
    ).join(""),
  );
}
