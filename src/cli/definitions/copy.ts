import type { Command } from "commander";

import { addDirectIo, type DirectIoFlags, takeDirectIo } from "../direct-io-option.js";
import { defineCommand } from "./shared.js";

/** Defines `ramport copy`. */
export function addCopy(program: Command): void {
  const command = defineCommand(
    program,
    "copy <in> <out>",
    "Copy a snapshot so that it stays sparse, and compare the copy.",
    ["ramport copy vm.ram /backup/vm.ram", "ramport copy vm.ram /backup/vm.ram --force --no-verify"],
  )
    .option("--force", "replace an existing file")
    .option("--no-verify", "do not read the copy back");
  addDirectIo(command, "read and write").action(
    async (input: string, output: string, { force, ...flags }: CopyFlags) => {
      const { copy } = await import("../commands/copy.js");
      await copy(input, output, { ...takeDirectIo(flags), ...(force === true ? { replace: true } : {}) });
    },
  );
}

type CopyFlags = Omit<Parameters<typeof import("../commands/copy.js").copy>[2], "replace" | "directIo"> &
  DirectIoFlags & { readonly force?: boolean };
