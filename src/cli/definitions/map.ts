import type { Command } from "commander";

import { defineCommand } from "./shared.js";

/** Defines `ramport map`. */
export function addMap(program: Command): void {
  defineCommand(
    program,
    "map <file> [file2]",
    "Draw a picture of guest memory, or of what changed between two snapshots.",
    [
      "ramport map vm.ram -o vm.html                      # a page to explore: point at a cell for its addresses",
      "ramport map vm.ram -o vm.png",
      "ramport map before.ram after.ram -o changes.svg    # what became of each page",
      "ramport map vm.ram --working-set -o vm.html        # what lazy restores asked for, of vm.ram.ws",
    ],
  )
    .requiredOption("-o, --output <out>", "the picture; its format is that of its name: .html, .svg or .png")
    .option(
      "--working-set [path]",
      "draw which pages a lazy restore asked for, and when; default path: the file's name with .ws",
    )
    .option("--force", "replace an existing file")
    .action(async (file: string, file2: string | undefined, { force, output, ...options }: MapFlags) => {
      const { map } = await import("../commands/map.js");
      const files: readonly [string, string?] = file2 === undefined ? [file] : [file, file2];
      await map(files, output, { ...options, ...(force === true ? { replace: true } : {}) });
    });
}

type MapFlags = Omit<Parameters<typeof import("../commands/map.js").map>[2], "replace"> & {
  readonly output: string;
  readonly force?: boolean;
};
