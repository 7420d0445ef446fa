import { Limits } from "./constants.js";

/** A JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** JSON in the layout of QEMU's JSONWriter: a blank after each comma and colon, nothing else. */
export function layOutJson(value: Json, depth = 0): string {
  // Deeper than any real description: not worth rewriting, and not worth a stack.
  if (depth > 2 * Limits.descriptionDepth) return "";
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (isArray(value)) return `[${value.map((item) => layOutJson(item, depth + 1)).join(", ")}]`;
  const entries = Object.entries(value);
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}: ${layOutJson(item, depth + 1)}`).join(", ")}}`;
}

function isArray(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}
