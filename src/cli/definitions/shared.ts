import { type Command, Option } from "commander";

import type { CommonOptions } from "../context.js";
import { wholeNumber } from "../parse-options.js";

/** A command with the options that all have; its action is loaded when it runs. */
export function defineCommand(
  program: Command,
  usage: string,
  description: string,
  examples: readonly string[],
): Command {
  return program
    .command(usage)
    .description(description)
    .option("--json", "print the result as JSON")
    .option("--no-progress", "show no progress")
    .option("--verbose", "say what is done and, on errors, what caused them")
    .hook("preAction", async (_, action) => {
      const { verbose } = action.opts<CommonOptions>();
      if (verbose === true) await import("../verbose-log.js").then((module) => module.logToStandardError());
    })
    .addHelpText("after", `\nExamples:\n${examples.map((line) => `  $ ${line}`).join("\n")}`);
}

/** `--qmp`. */
export const qmpOption = (): Option =>
  new Option(
    "--qmp <socket>",
    "QMP socket of the QEMU: a path, unix:PATH or tcp:HOST:PORT",
  ).makeOptionMandatory();

/** `--target-page-size`. */
export const targetPageSizeOption = (): Option =>
  new Option(
    "--target-page-size <bytes>",
    "for guests whose pages are not of 4096 bytes and whose stream does not say so",
  ).argParser(wholeNumber("--target-page-size", 256, 65_536));

/** `--multifd-sync`. */
export const multifdSyncOption = (): Option =>
  new Option(
    "--multifd-sync <when>",
    "for machine types that do not say when channels are synced: with each section (QEMU up to 8.0) or each round",
  ).choices(["section", "round"]);

/** `--via`. */
export const viaOption = (): Option =>
  new Option("--via <uri>", "unix:PATH or tcp:HOST:PORT to travel over, where a private socket will not do");

/** The options of TLS, for a command that moves a stream over a socket. */
export function addTlsOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--tls-creds-x509 <folder>",
        "TLS with the certificates of a folder laid out for QEMU's tls-creds-x509",
      ).conflicts("tlsPsk"),
    )
    .option(
      "--tls-psk <file>",
      "TLS with a pre-shared key: a keys.psk, or its folder, as for QEMU's tls-creds-psk",
    )
    .option(
      "--tls-hostname <name>",
      "name that the server's certificate must have (default: the address's host)",
    )
    .option("--tls-username <name>", "whose key of --tls-psk the connecting side takes (default: qemu)")
    .option("--no-tls-verify-peer", "with --tls-creds-x509: take whatever certificate the other side has");
}
