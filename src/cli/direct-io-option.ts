import type { Command } from "commander";

import type { DirectIo } from "../channels/direct-io.js";

/** What {@link addDirectIo} adds to a command's flags. */
export interface DirectIoFlags {
  readonly directIo?: boolean;
  readonly "directIo=auto"?: boolean;
}

/**
 * Adds `--direct-io` and `--direct-io=auto`. As one option with a value that may be left out, it would take the argument
 * that follows it for its value.
 *
 * @param what What is done past the page cache: "read and write".
 */
export function addDirectIo(command: Command, what: string): Command {
  return command
    .option("--direct-io", `${what} past the page cache`)
    .option("--direct-io=auto", "the same, where the file system can");
}

/** Divides a command's flags into what was asked of direct I/O, and the others. */
export function takeDirectIo<Flags extends DirectIoFlags>(
  flags: Flags,
): Omit<Flags, keyof DirectIoFlags> & { readonly directIo: DirectIo } {
  const { directIo, "directIo=auto": auto, ...others } = flags;
  return { ...others, directIo: auto === true ? "auto" : directIo === true ? "required" : "off" };
}
