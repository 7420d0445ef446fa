import { openIncoming } from "../../channels/open.js";
import { parseFileWithOffset } from "../../channels/uri.js";
import { printable, UsageError } from "../../errors/index.js";
import type { ExtractTarget } from "../../snapshot/extract-files.js";
import { extractBlocks, type ExtractOptions, type ExtractResult } from "../../snapshot/extract.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";
import { table } from "../table.js";

/** `ramport extract`. */
export async function extract(
  file: string,
  options: CommonOptions &
    Pick<ExtractOptions, "replace" | "sha256" | "targetPageSize" | "directIo"> & {
      readonly block?: string;
      readonly all?: boolean;
      readonly output: string;
    },
): Promise<void> {
  const target = targetOf(options);
  const result = await withContext(options, async (context) => {
    const common = { ...options, ...context };
    if (file !== "-") {
      const { path, offset } = parseFileWithOffset(file);
      return extractBlocks(path, target, { ...common, offset });
    }
    const { source } = await openIncoming({ kind: "stdio" });
    try {
      return await extractBlocks(source, target, common);
    } finally {
      await source.close();
    }
  });
  printResult(options, result, describe(file, result));
}

function targetOf(options: Parameters<typeof extract>[1]): ExtractTarget {
  if (options.all === true) return { folder: options.output };
  if (options.block !== undefined) return { block: options.block, path: options.output };
  throw new UsageError("Say what to extract", { hint: "--block NAME, or --all for every block" });
}

function describe(file: string, { machine, blocks, leftOut }: ExtractResult): string[] {
  const count = blocks.length === 1 ? "1 RAM block" : `${blocks.length} RAM blocks`;
  return [
    `Extracted ${count} of ${machine === "" ? file : printable(machine)}`,
    ...leftOut.map((name) => `${printable(name)} is shared memory that is not in the file`),
    "",
    ...table(
      ["RAM block", "size", "on disk", "file", ...(blocks.some(({ sha256 }) => sha256) ? ["sha256"] : [])],
      blocks.map((block) => [
        block.name,
        bytes(block.bytes),
        bytes(block.allocatedBytes),
        block.path,
        block.sha256 ?? "",
      ]),
    ),
  ];
}
