import { parseFileWithOffset } from "../../channels/uri.js";
import { printable } from "../../errors/index.js";
import { type SealOptions, sealSnapshot } from "../../snapshot/seal.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";

/** `ramport seal`. */
export async function seal(
  file: string,
  options: CommonOptions & Omit<SealOptions, "offset" | "signal" | "onProgress">,
): Promise<void> {
  const { path, offset } = parseFileWithOffset(file);
  const result = await withContext(options, ({ signal, onProgress }) =>
    sealSnapshot(path, { ...options, offset, signal, onProgress }),
  );
  const { machine, ramBytes, pages, clearedBytes, allocatedBytes } = result;
  const cleared =
    clearedBytes === 0 ? "no old bytes were in it" : `${bytes(clearedBytes)} of old bytes cleared`;
  printResult(options, result, [
    `Sealed ${result.path}: ${printable(machine)} with ${bytes(ramBytes)} of RAM, ${cleared}; it is read-only now`,
    `${pages.normal} pages with content, ${bytes(allocatedBytes)} on disk`,
  ]);
}
