import type { Command } from "commander";

import { wholeNumber } from "../parse-options.js";
import { defineCommand } from "./shared.js";

/** What a buffer and an array show on a terminal, unless more is asked for. */
const DEFAULT_BYTES = 64;

/** Defines `ramport inspect`. */
export function addInspect(program: Command): void {
  defineCommand(program, "inspect <file>", "Show the state of the devices, field by field; reads no pages.", [
    "ramport inspect vm.ram | less",
    "ramport inspect vm.ram --device cpu --device '*vga*'  # by name; * stands for slashes too",
    "ramport inspect vm.ram --device 'cpu/1' --bytes 4096  # the second cpu, with long buffers",
    "ramport inspect vm.ram --json | jq '.devices[] | select(.name == \"timer\").values'",
    "ramport inspect vm.ram --describe --device timer      # what the snapshot says of its layout",
  ])
    .option(
      "--device <glob>",
      "only devices whose name, or name/instance, fits; may be given several times",
      (glob: string, before: readonly string[] | undefined) => [...(before ?? []), glob],
    )
    .option(
      "--bytes <n>",
      "show this many bytes of a buffer and elements of an array; --json has all",
      wholeNumber("--bytes", 1, Number.MAX_SAFE_INTEGER),
      DEFAULT_BYTES,
    )
    .option("--describe", "print the vmstate description itself, as JSON")
    .action(async (file: string, options: InspectFlags) => {
      const { inspect } = await import("../commands/inspect.js");
      await inspect(file, options);
    });
}

type InspectFlags = Parameters<typeof import("../commands/inspect.js").inspect>[1];
