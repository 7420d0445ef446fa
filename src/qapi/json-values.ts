/**
 * Small checks of values that came as JSON.
 *
 * @module
 */
import { printable, UsageError } from "../errors/index.js";

/** An object of JSON. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether a value is an object, and neither null nor a list. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a value is a list of strings. */
export function isStringArray(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

/**
 * Takes an object that has these members and no other ones; `?` at a name's end says that it may be absent.
 *
 * @throws UsageError naming what is missing or unexpected.
 */
export function checkMembers(value: unknown, what: string, members: readonly string[]): JsonObject {
  if (!isJsonObject(value)) throw new UsageError(`${what} must be an object`);
  const names = members.map((member) => member.replace(/\?$/, ""));
  const unexpected = Object.keys(value).find((name) => !names.includes(name));
  if (unexpected !== undefined) throw new UsageError(`${what} has no member ${printable(unexpected)}`);
  const missing = members.find((member) => !member.endsWith("?") && !Object.hasOwn(value, member));
  if (missing !== undefined) throw new UsageError(`${what} lacks its member ${missing}`);
  return value;
}

/** @throws UsageError when it is no list. */
export function checkList(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new UsageError(`${what} must be a list`);
  return value as readonly unknown[];
}

/**
 * Checks the shape of a `block-bitmap-mapping`. QEMU also checks that its names are well formed and used once; that
 * would matter only to an engine that migrates bitmaps.
 *
 * @throws UsageError naming the part that is wrong.
 */
export function checkBitmapMapping(name: string, value: unknown): void {
  for (const [index, item] of checkList(value, `The migration parameter ${name}`).entries()) {
    const what = `${name}[${index}]`;
    const node = checkMembers(item, what, ["node-name", "alias", "bitmaps"]);
    checkText(node, what, ["node-name", "alias"]);
    for (const [place, entry] of checkList(node.bitmaps, `${what}.bitmaps`).entries()) {
      const where = `${what}.bitmaps[${place}]`;
      const bitmap = checkMembers(entry, where, ["name", "alias", "transform?"]);
      checkText(bitmap, where, ["name", "alias"]);
      if (bitmap.transform === undefined) continue;
      const { persistent } = checkMembers(bitmap.transform, `${where}.transform`, ["persistent?"]);
      if (persistent !== undefined && typeof persistent !== "boolean") {
        throw new UsageError(`${where}.transform.persistent must be true or false`);
      }
    }
  }
}

function checkText(value: JsonObject, what: string, members: readonly string[]): void {
  const wrong = members.find((member) => typeof value[member] !== "string");
  if (wrong !== undefined) throw new UsageError(`${what}.${wrong} must be a string`);
}
