import { inflateSync } from "node:zlib";

import { FormatError } from "../errors/index.js";
import { RAM_SECTION } from "../wire/index.js";

/**
 * Inflates a zlib-compressed page, which QEMU could send until 9.0.
 *
 * @param block Name of its RAM block, for errors.
 * @throws FormatError when it is no such page.
 */
export function inflatePage(bytes: Uint8Array, pageSize: number, block: string): Uint8Array {
  const place = { section: RAM_SECTION.name, block };
  let page: Uint8Array;
  try {
    page = inflateSync(bytes, { maxOutputLength: pageSize });
  } catch (cause) {
    throw new FormatError("malformed", "A compressed page cannot be inflated", place, cause);
  }
  if (page.length === pageSize) return page;
  throw new FormatError("malformed", "A compressed page has another length than a page", {
    ...place,
    expected: pageSize,
    actual: page.length,
  });
}
