import { openIncoming } from "../../channels/open.js";
import { parseFileWithOffset } from "../../channels/uri.js";
import { printable } from "../../errors/index.js";
import { type ConvertOptions, type ConvertResult, convertSnapshot } from "../../snapshot/convert.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";

/** `ramport convert`. */
export async function convert(
  input: string,
  output: string,
  options: CommonOptions &
    Pick<ConvertOptions, "to" | "libvirtHeader" | "targetPageSize" | "directIo"> & {
      readonly replace?: boolean;
    },
): Promise<void> {
  const { path, offset: outputOffset } = parseFileWithOffset(output);
  const result = await withContext(options, async ({ signal, onProgress }) => {
    const common = { ...options, signal, onProgress, outputOffset };
    if (input !== "-") {
      const from = parseFileWithOffset(input);
      return convertSnapshot(from.path, path, { ...common, offset: from.offset });
    }
    const { source } = await openIncoming({ kind: "stdio" });
    try {
      return await convertSnapshot(source, path, common);
    } finally {
      await source.close();
    }
  });
  printResult(options, result, describe(input, output, result));
}

function describe(input: string, output: string, result: ConvertResult): string[] {
  const { machine, from, to, ramBytes, fileBytes, allocatedBytes } = result;
  const packed = from.compression === undefined ? "" : ` (${from.compression})`;
  const forms = `${from.container} ${from.format}${packed} to ${to.container} ${to.format}`;
  return [
    `Converted ${printable(machine)} with ${bytes(ramBytes)} of RAM from ${input} into ${output}: ${forms}`,
    `The file has ${bytes(fileBytes)} and takes ${bytes(allocatedBytes)} on disk`,
  ];
}
