import path from "node:path";

import { OutputFile } from "../../channels/output-file.js";
import { parseFileWithOffset } from "../../channels/uri.js";
import {
  mapDifference,
  mapMemory,
  type MapNumbers,
  mapNumbers,
  type MemoryMap,
} from "../../map/memory-map.js";
import { mapWorkingSet } from "../../map/working-set-map.js";
import { mapFormatOf, maxCellsOf, writeMap } from "../../map/write-map.js";
import { UsageError } from "../../errors/index.js";
import { openSnapshot } from "../../snapshot/open.js";
import { isSameSnapshot } from "../../snapshot/working-set.js";
import { readWorkingSet, workingSetIdentity, workingSetPathOf } from "../../snapshot/working-set-file.js";
import { type CommandContext, type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";
import { table } from "../table.js";
import { withSnapshots } from "./diff.js";

/** `ramport map`. */
export async function map(
  files: readonly [string, string?],
  output: string,
  options: CommonOptions & { readonly replace?: boolean; readonly workingSet?: string | true },
): Promise<void> {
  const { workingSet } = options;
  if (workingSet !== undefined && files[1] !== undefined) {
    throw new UsageError("A working set is drawn of one snapshot, not between two");
  }
  const format = mapFormatOf(output);
  // What cannot be written is not worth reading all memory for.
  OutputFile.reserve(output, options);
  const numbers = await withContext(options, async (context) => {
    const maxCells = maxCellsOf(format);
    const mapContext = { ...context, ...(maxCells === undefined ? {} : { maxCells }) };
    const made = await (workingSet === undefined
      ? makeMap(files, mapContext)
      : makeWorkingSetMap(files[0], workingSet, mapContext));
    const labels = files.map((file) => path.basename(parseFileWithOffset(file ?? "").path));
    await writeMap(made, output, { ...options, labels, signal: context.signal });
    return mapNumbers(made);
  });
  printResult(options, { path: path.resolve(output), ...numbers }, describe(output, numbers));
}

async function makeMap(
  [first, second]: readonly [string, string?],
  context: CommandContext & { readonly maxCells?: number },
): Promise<MemoryMap> {
  if (second !== undefined) {
    return withSnapshots([first, second], context, ([a, b]) => mapDifference(a, b, context));
  }
  const { path: file, offset } = parseFileWithOffset(first);
  const snapshot = await openSnapshot(file, { offset, ...context });
  try {
    return await mapMemory(snapshot, context);
  } finally {
    snapshot.close();
  }
}

async function makeWorkingSetMap(
  name: string,
  workingSet: string | true,
  context: CommandContext & { readonly maxCells?: number },
): Promise<MemoryMap> {
  const { path: file, offset } = parseFileWithOffset(name);
  const set = readWorkingSet(workingSet === true ? workingSetPathOf(file) : workingSet);
  const snapshot = await openSnapshot(file, { offset, ...context });
  try {
    if (!isSameSnapshot(set, workingSetIdentity(snapshot))) {
      context.onMessage("The working set was recorded of another snapshot of such a guest");
    }
    return mapWorkingSet(snapshot, set, context);
  } finally {
    snapshot.close();
  }
}

function describe(output: string, { kinds, blocks }: MapNumbers): string[] {
  const ids = Object.keys(kinds);
  return [
    ...table(
      ["pages of", ...ids.map((id) => id.replaceAll("-", " "))],
      [
        ...blocks.map((block) => [block.name, ...ids.map((id) => block.kinds[id]?.pages ?? 0)]),
        ["all blocks", ...ids.map((id) => kinds[id]?.pages ?? 0)],
      ],
    ),
    "",
    `${bytes(Object.values(kinds).reduce((sum, kind) => sum + kind.bytes, 0))} of guest memory drawn into ${output}`,
  ];
}
