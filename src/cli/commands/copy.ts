import { parseFileWithOffset } from "../../channels/uri.js";
import { type CopyOptions, copySnapshot } from "../../snapshot/copy.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";

/** `ramport copy`. */
export async function copy(
  input: string,
  output: string,
  options: CommonOptions & { readonly replace?: boolean; readonly verify?: boolean } & Pick<
      CopyOptions,
      "directIo"
    >,
): Promise<void> {
  const { path, offset } = parseFileWithOffset(input);
  const result = await withContext(options, ({ signal, onProgress }) =>
    copySnapshot(path, output, { ...options, offset, signal, onProgress }),
  );
  const { allocatedBytes, verified, snapshotOk } = result;
  printResult(options, result, [
    `Copied ${input} to ${output}: ${bytes(result.bytes)}, ${verified ? "compared" : "not compared"}`,
    `The copy takes ${bytes(allocatedBytes.copy)} on disk, the file ${bytes(allocatedBytes.source)}`,
    ...(snapshotOk === false ? ["Both are damaged, or no snapshots: ramport verify says how"] : []),
  ]);
}
