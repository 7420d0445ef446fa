import process from "node:process";

import type { Command } from "commander";

import type { CommonOptions } from "../context.js";
import { ExitCode } from "../exit-codes.js";
import { defineCommand } from "./shared.js";

/** Defines `ramport verify`. */
export function addVerify(program: Command): void {
  defineCommand(
    program,
    "verify <file>",
    "Check everything about a snapshot that can be checked without a VM.",
    ["ramport verify vm.ram && echo whole", "ramport verify vm.ram --json | jq '.problems[]'"],
  ).action(async (file: string, options: CommonOptions) => {
    const { verify } = await import("../commands/verify.js");
    const ok = await verify(file, options);
    if (!ok) process.exitCode = ExitCode.badInput;
  });
}
