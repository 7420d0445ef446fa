import { type Command, Option } from "commander";

import { wholeNumber } from "../parse-options.js";

/** The options for how pages are compressed on their way over several channels. */
export function addMultifdCompression(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--multifd-compression <name>",
        "compress what travels over the channels; where QEMU's side is yours to set, its multifd-compression",
      ).choices(["none", "zlib", "zstd"]),
    )
    .option("--multifd-zlib-level <n>", "0 to 9 (default: 1)", wholeNumber("--multifd-zlib-level", 0, 9))
    .option("--multifd-zstd-level <n>", "0 to 20 (default: 1)", wholeNumber("--multifd-zstd-level", 0, 20));
}
