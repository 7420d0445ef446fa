import process from "node:process";

import { Command, CommanderError } from "commander";

import { systemError } from "../channels/system-error.js";
import { addConvert } from "./definitions/convert.js";
import { addCopy } from "./definitions/copy.js";
import { addDiff } from "./definitions/diff.js";
import { addExtract } from "./definitions/extract.js";
import { addInfo } from "./definitions/info.js";
import { addInspect } from "./definitions/inspect.js";
import { addMap } from "./definitions/map.js";
import { addReceive } from "./definitions/receive.js";
import { addRestore } from "./definitions/restore.js";
import { addSave } from "./definitions/save.js";
import { addSend } from "./definitions/send.js";
import { addVerify } from "./definitions/verify.js";
import { addVm } from "./definitions/vm.js";
import { ExitCode, exitCodeOf } from "./exit-codes.js";
import { reportError } from "./report-error.js";

/** Runs the command line and sets the process's exit code. */
export async function runProgram(argv: readonly string[]): Promise<void> {
  const program = buildProgram(argv[2]);
  hearOfLostOutput();
  try {
    await program.parseAsync(argv);
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has printed what is to be said.
      process.exitCode = error.exitCode === 0 ? ExitCode.fine : ExitCode.usage;
      return;
    }
    reportError(error, argv.includes("--verbose"));
    process.exitCode = exitCodeOf(error);
  }
}

/**
 * Standard output and error may lose their readers at any time. A terminal that closes sends SIGHUP, which has work to
 * clean up: an error that nobody hears would end the process before that.
 */
function hearOfLostOutput(): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // Whoever reads our output may stop reading (`ramport info X | head`): nothing to complain about.
    if (error.code === "EPIPE") process.exit(ExitCode.fine);
    if (error.code === "EIO") return;
    reportError(systemError("Writing", "standard output", error), false);
    process.exit(ExitCode.machine);
  });
  process.stderr.on("error", () => undefined);
}

/** In the order of the help. */
const COMMANDS: ReadonlyMap<string, (program: Command) => void> = new Map([
  ["save", addSave],
  ["restore", addRestore],
  ["receive", addReceive],
  ["send", addSend],
  ["info", addInfo],
  ["inspect", addInspect],
  ["verify", addVerify],
  ["diff", addDiff],
  ["map", addMap],
  ["convert", addConvert],
  ["copy", addCopy],
  ["extract", addExtract],
  ["vm", addVm],
]);

/** @param first What stands first on the command line: where it is a command, no other one is asked for. */
function buildProgram(first: string | undefined): Command {
  const program = new Command("ramport")
    .description("Saves, moves, inspects and restores the memory of virtual machines.")
    .option("-V, --version", "print the version")
    .exitOverride()
    .showHelpAfterError("(add --help for the options and examples)")
    .addHelpText(
      "after",
      "\nExit codes: 0 fine, 1 bad file or stream, 2 wrong usage, 3 machine, QEMU or network failed, 130 cancelled.",
    );
  const wanted = COMMANDS.get(first ?? "");
  for (const add of wanted === undefined ? COMMANDS.values() : [wanted]) add(program);
  return program;
}
