import type { Command } from "commander";

import type { CommonOptions } from "../context.js";
import { defineCommand } from "./shared.js";

/** Defines `ramport info`. */
export function addInfo(program: Command): void {
  defineCommand(program, "info <file>", "Show what a snapshot holds; reads no pages.", [
    "ramport info vm.ram",
    "ramport info vm.ram --json | jq '.ram.blocks[].name'",
    "ramport info vm.ram,offset=4096                    # a stream that starts inside a file",
    "ramport info /var/lib/libvirt/qemu/save/vm.save --xml",
  ])
    .option("--xml", "print the domain's XML of a libvirt save image, and nothing else")
    .action(async (file: string, options: CommonOptions & { readonly xml?: boolean }) => {
      const { info } = await import("../commands/info.js");
      await info(file, options);
    });
}
