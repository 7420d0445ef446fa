import process from "node:process";

import type { Command } from "commander";

import type { CommonOptions } from "../context.js";
import { ExitCode } from "../exit-codes.js";
import { defineCommand } from "./shared.js";

/** As with diff(1). */
const DIFFERENT_EXIT_CODE = 1;

/** Defines `ramport diff`. */
export function addDiff(program: Command): void {
  defineCommand(program, "diff <a> <b>", "Compare the memory and devices of two snapshots of one machine.", [
    "ramport diff before.ram after.ram",
    "ramport diff vm.ram vm.stream && echo same         # any format with any other",
    "ramport diff a.ram b.ram --json | jq -c '.blocks[].ranges[] | select(.change != \"equal\")'",
  ])
    .addHelpText(
      "after",
      "\nExits with 0 when they are the same, 1 when they differ or one of them is bad, 2 when they cannot be compared.",
    )
    .action(async (a: string, b: string, options: CommonOptions) => {
      const { diff } = await import("../commands/diff.js");
      const same = await diff(a, b, options);
      process.exitCode = same ? ExitCode.fine : DIFFERENT_EXIT_CODE;
    });
}
