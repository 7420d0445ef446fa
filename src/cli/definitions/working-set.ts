import type { Command } from "commander";

import { byteCount } from "../parse-options.js";
import { defineCommand } from "./shared.js";

/** Defines `ramport working-set`. */
export function addWorkingSet(program: Command): void {
  defineCommand(
    program,
    "working-set <file>",
    "Show, merge or trim which pages lazy restores of a snapshot asked for.",
    [
      "ramport working-set vm.ram                                  # what is in vm.ram.ws",
      "ramport working-set vm.ram.ws --merge other.ws -o both.ws   # of several restores",
      "ramport working-set vm.ram.ws --trim 64M -o first.ws        # the 64 MiB that were asked for first",
    ],
  )
    .option("--merge <others...>", "recordings of the same snapshot to put in")
    .option("--trim <size>", "keep what was asked for first, up to so many bytes", byteCount("--trim"))
    .option("-o, --output <out>", "where to write the result")
    .option("--force", "replace an existing file")
    .action(async (file: string, { force, ...options }: WorkingSetFlags) => {
      const { workingSet } = await import("../commands/working-set.js");
      await workingSet(file, { ...options, ...(force === true ? { replace: true } : {}) });
    });
}

type WorkingSetFlags = Omit<
  Parameters<typeof import("../commands/working-set.js").workingSet>[1],
  "replace"
> & {
  readonly force?: boolean;
};
