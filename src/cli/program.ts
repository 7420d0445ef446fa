import process from "node:process";

import { Command, CommanderError } from "commander";

import { systemError } from "../channels/system-error.js";
import { ExitCode, exitCodeOf } from "./exit-codes.js";
import { reportError } from "./report-error.js";

/** Runs the command line and sets the process's exit code. */
export async function runProgram(argv: readonly string[]): Promise<void> {
  const program = await buildProgram(argv[2]);
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

/** In the order of the help. What is not asked for is not loaded. */
const COMMANDS: ReadonlyMap<string, () => Promise<(program: Command) => void>> = new Map([
  ["save", async () => (await import("./definitions/save.js")).addSave],
  ["restore", async () => (await import("./definitions/restore.js")).addRestore],
  ["clone", async () => (await import("./definitions/clone.js")).addClone],
  ["seal", async () => (await import("./definitions/seal.js")).addSeal],
  ["receive", async () => (await import("./definitions/receive.js")).addReceive],
  ["send", async () => (await import("./definitions/send.js")).addSend],
  ["info", async () => (await import("./definitions/info.js")).addInfo],
  ["inspect", async () => (await import("./definitions/inspect.js")).addInspect],
  ["verify", async () => (await import("./definitions/verify.js")).addVerify],
  ["diff", async () => (await import("./definitions/diff.js")).addDiff],
  ["map", async () => (await import("./definitions/map.js")).addMap],
  ["working-set", async () => (await import("./definitions/working-set.js")).addWorkingSet],
  ["convert", async () => (await import("./definitions/convert.js")).addConvert],
  ["copy", async () => (await import("./definitions/copy.js")).addCopy],
  ["extract", async () => (await import("./definitions/extract.js")).addExtract],
  ["vm", async () => (await import("./definitions/vm.js")).addVm],
]);

/** @param first What stands first on the command line: where it is a command, no other one is asked for. */
async function buildProgram(first: string | undefined): Promise<Command> {
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
  for (const load of wanted === undefined ? COMMANDS.values() : [wanted]) (await load())(program);
  return program;
}
