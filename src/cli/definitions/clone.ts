import { type Command, Option } from "commander";

import type { CloneFlags } from "../commands/clone.js";
import { wholeNumber } from "../parse-options.js";
import { defineCommand } from "./shared.js";

/** Defines `ramport clone`. */
export function addClone(program: Command): void {
  defineCommand(
    program,
    "clone <file> [qemu...]",
    "Start QEMUs whose memory is the snapshot itself: they share it, and keep for themselves what they write.",
    [
      "ramport seal vm.ram",
      "ramport clone vm.ram -- qemu-system-x86_64 -machine pc-i440fx-10.0 -m 2G -display none ...",
      "ramport clone vm.ram -n 16 --qmp /run/vm{n}.qmp -- qemu-system-x86_64 ... -serial file:/run/vm{n}.log -snapshot",
      "ramport clone vm.ram -n 4 --detach --json -- qemu-system-x86_64 ...",
      "ramport clone vm.ram --print --residual vm.residual -- qemu-system-x86_64 ...    # start it yourself, as often as you like",
    ],
  )
    .option("-n, --count <n>", "how many", wholeNumber("--count", 1, 1024))
    .option(
      "--qmp <path>",
      "QMP socket of each clone, with {n} for its number (default: in a private folder)",
    )
    .addOption(
      new Option("--run", "let the guests run, even if the saved one was paused").conflicts("paused"),
    )
    .option("--paused", "leave the guests paused, even if the saved one was running")
    .addOption(new Option("--detach", "leave the clones running, and end").conflicts("print"))
    .option("--print", "start nothing: write the residual stream, and print the command line of a clone")
    .option("--residual <file>", "with --print: where the residual stream goes (default: FILE.residual)")
    .option("--force", "with --print: replace an existing residual stream")
    .addHelpText("after", HELP)
    .action(async (file: string, argv: readonly string[], { run, paused, ...flags }: ClonesFlags) => {
      const { clone } = await import("../commands/clone.js");
      const then = run === true ? "run" : paused === true ? "pause" : undefined;
      await clone(file, argv, { ...flags, ...(then === undefined ? {} : { then }) });
    });
}

type ClonesFlags = Omit<CloneFlags, "then"> & { readonly run?: boolean; readonly paused?: boolean };

const HELP = `
Behind -- stands the command line of the saved QEMU (8.2 or newer). Its memory is replaced by the snapshot; -incoming is
added, and what does not fit is said before anything is started. In it, {n} becomes the clone's number, from 1 on: for all
that two clones cannot share, such as serial files, sockets, names and disks. Disks are as at the time of the snapshot:
give each clone an overlay of its own, or -snapshot.

ramport stays, and ends its clones on Ctrl-C, SIGTERM or SIGHUP; killed by SIGKILL it leaves them running. With --detach it
ends as soon as they run. When one of them fails to start, none is left.

The file must stay as it is while a clone runs: ramport seal takes the right to write from everybody.`;
