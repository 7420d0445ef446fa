import type { Command } from "commander";

import { addDirectIo, type DirectIoFlags, takeDirectIo } from "../direct-io-option.js";
import { defineCommand, targetPageSizeOption } from "./shared.js";

/** Defines `ramport seal`. */
export function addSeal(program: Command): void {
  const command = defineCommand(
    program,
    "seal <file>",
    "Make a snapshot fit for clones: what counts as zero is zero in the file, which becomes read-only.",
    [
      "ramport seal vm.ram                      # a mapped-ram file, in place; sealing it again changes nothing",
      "ramport seal vm.stream -o vm.ram         # any snapshot, into a new file",
      "ramport seal disk.img,offset=1M          # a snapshot that begins later in its file",
    ],
  )
    .option("-o, --output <file>", "write a new sealed file, and leave this one as it is")
    .option("--force", "with -o: replace an existing file")
    .addOption(targetPageSizeOption());
  addDirectIo(command, "read and write (with -o)").action(
    async (file: string, { force, ...flags }: SealFlags) => {
      const { seal } = await import("../commands/seal.js");
      await seal(file, { ...takeDirectIo(flags), ...(force === true ? { replace: true } : {}) });
    },
  );
}

type SealFlags = Omit<Parameters<typeof import("../commands/seal.js").seal>[1], "replace" | "directIo"> &
  DirectIoFlags & { readonly force?: boolean };
