import { existsSync } from "node:fs";
import path from "node:path";

import { OutputFile } from "../../channels/output-file.js";
import { FormatError, UsageError } from "../../errors/index.js";
import {
  isSameSnapshot,
  mergeWorkingSets,
  trimWorkingSet,
  type WorkingSet,
  type WorkingSetNumbers,
  workingSetNumbers,
} from "../../snapshot/working-set.js";
import { readWorkingSet, workingSetPathOf, writeWorkingSet } from "../../snapshot/working-set-file.js";
import { type CommonOptions, printResult } from "../context.js";
import { bytes } from "../format.js";
import { table } from "../table.js";

/** `ramport working-set`. */
export async function workingSet(
  file: string,
  options: CommonOptions & {
    readonly merge?: readonly string[];
    readonly trim?: number;
    readonly output?: string;
    readonly replace?: boolean;
  },
): Promise<void> {
  const { merge = [], trim, output } = options;
  if (output !== undefined) OutputFile.reserve(output, options);
  const first = readOf(file);
  const others = merge.map(readOf);
  if (others.some((other) => !isSameSnapshot(first, other))) {
    throw new UsageError("These recordings are of different snapshots", {
      hint: "merge those of one snapshot only",
    });
  }
  const merged = others.length === 0 ? first : mergeWorkingSets([first, ...others]);
  const result = trim === undefined ? merged : trimWorkingSet(merged, trim);
  if (output !== undefined) await writeWorkingSet(result, output, options);
  const numbers = workingSetNumbers(result);
  const written = output === undefined ? {} : { path: path.resolve(output) };
  printResult(options, { ...written, ...numbers }, describe(numbers, output));
}

/** A working set by its own name or by that of its snapshot. */
function readOf(file: string): WorkingSet {
  try {
    return readWorkingSet(file);
  } catch (error) {
    const beside = workingSetPathOf(file);
    // Most people have the snapshot's name in mind.
    if (error instanceof FormatError && error.code !== "unsupported" && existsSync(beside))
      return readWorkingSet(beside);
    throw error;
  }
}

function describe(
  { blocks, pages, bytes: size, runs, ramBytes }: WorkingSetNumbers,
  output: string | undefined,
): string[] {
  const share = ramBytes === 0 ? 0 : (size / ramBytes) * 100;
  return [
    ...table(
      ["block", "pages", "bytes", "of"],
      blocks
        .filter((block) => block.pages > 0)
        .map((block) => [block.name, block.pages, bytes(block.bytes), bytes(block.usedLength)]),
    ),
    "",
    `${counted(pages, "page")} in ${counted(runs, "run")}: ${bytes(size)}, ${share.toFixed(1)} % of ${bytes(ramBytes)} of RAM`,
    ...(output === undefined ? [] : [`Written to ${output}`]),
  ];
}

function counted(number: number, what: string): string {
  return `${number.toLocaleString("en-US")} ${what}${number === 1 ? "" : "s"}`;
}
