import { type Command, Option } from "commander";

import { addDirectIo, type DirectIoFlags, takeDirectIo } from "../direct-io-option.js";
import { defineCommand, targetPageSizeOption } from "./shared.js";

/** Defines `ramport extract`. */
export function addExtract(program: Command): void {
  const command = defineCommand(program, "extract <file>", "Write RAM blocks as raw, sparse files.", [
    "ramport extract vm.ram --block pc.ram -o memory.raw",
    "ramport extract vm.ram --all -o blocks             # a file for each block, in a folder",
    "zstdcat vm.stream.zst | ramport extract - --block pc.ram -o memory.raw",
    "ramport extract vm.ram --all -o blocks --sha256 --json | jq '.blocks[]'",
  ])
    .addOption(new Option("--block <name>", "extract this block; info lists them").conflicts("all"))
    .option("--all", "extract each block, into a file with the block's name")
    .requiredOption("-o, --output <path>", "the file, or with --all the folder, to write")
    .option("--sha256", "read the files back and print their SHA-256")
    .option("--force", "replace existing files")
    .addOption(targetPageSizeOption());
  addDirectIo(command, "read and write").action(async (file: string, { force, ...flags }: ExtractFlags) => {
    const { extract } = await import("../commands/extract.js");
    await extract(file, { ...takeDirectIo(flags), ...(force === true ? { replace: true } : {}) });
  });
}

type ExtractFlags = Omit<
  Parameters<typeof import("../commands/extract.js").extract>[1],
  "replace" | "directIo"
> &
  DirectIoFlags & { readonly force?: boolean };
