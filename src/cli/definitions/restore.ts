import { type Command, Option } from "commander";

import { byteCount, wholeNumber } from "../parse-options.js";
import { addMultifdCompression } from "./multifd.js";
import { addTlsOptions, defineCommand, qmpOption, viaOption } from "./shared.js";

/** Defines `ramport restore`. */
export function addRestore(program: Command): void {
  const command = defineCommand(
    program,
    "restore <file>",
    "Load a snapshot into a QEMU started with -incoming defer.",
    [
      "qemu-system-x86_64 -m 2G ... -incoming defer -qmp unix:/run/new.qmp,server=on,wait=off &",
      "ramport restore vm.ram --qmp /run/new.qmp          # runs, or is paused, as it was saved",
      "ramport restore vm.ram --qmp /run/new.qmp --run    # runs in any case",
      "ramport restore vm.ram --qmp tcp:host:5555 --via tcp:host:4444 --tls-psk /etc/pki/qemu/keys.psk",
      "ramport restore vm.ram --qmp /run/new.qmp --method send --channels 4",
      "ramport restore vm.ram --qmp /run/new.qmp --lazy           # the guest runs at once, its memory follows",
      "ramport restore vm.ram --qmp /run/new.qmp --lazy --detach  # returns when the guest runs",
      "ramport restore vm.ram --qmp /run/new.qmp --mode clone     # a QEMU that has the file as its memory",
    ],
  )
    .addOption(qmpOption())
    .addOption(new Option("--run", "let the guest run, even if it was saved paused").conflicts("paused"))
    .option("--paused", "leave the guest paused, even if it was saved running")
    .addOption(
      new Option("--method <name>", "who reads the file: QEMU 9.0 and newer (mapped-ram), or ramport (send)")
        .choices(["auto", "mapped-ram", "send"])
        .default("auto"),
    )
    .option(
      "--channels <n>",
      "multifd channels: QEMU's threads (mapped-ram), or connections for the pages (send)",
      wholeNumber("--channels", 1, 255),
    )
    .option("--direct-io", "read past the page cache (mapped-ram method: QEMU 9.1 and newer)")
    .option("--direct-io=auto", "the same, where the file system can")
    .addOption(viaOption())
    .addOption(
      new Option(
        "--mode <name>",
        "what is there first: all memory (eager, the default), or the guest (lazy); clone: the QEMU maps the file already, as ramport clone --print says how",
      ).choices(["eager", "lazy", "clone"]),
    )
    .option("--lazy", "the same as --mode lazy");
  addLazyOptions(command);
  addTlsOptions(addMultifdCompression(command)).action(
    async (file: string, { run, paused, "directIo=auto": auto, ...options }: RestoreFlags) => {
      const { restore } = await import("../commands/restore.js");
      const then = run === true ? "run" : paused === true ? "pause" : undefined;
      await restore(file, {
        ...options,
        ...(then === undefined ? {} : { then }),
        ...(auto === true ? { directIo: "auto" } : {}),
      });
    },
  );
}

function addLazyOptions(command: Command): void {
  command
    .addOption(
      new Option(
        "--preempt <when>",
        "lazy: a connection of its own for pages that are asked for; auto: where the QEMU has it",
      ).choices(["auto", "on", "off"]),
    )
    .option(
      "--rate-limit <size>",
      "lazy: bytes a second of pages that nobody asked for",
      byteCount("--rate-limit"),
    )
    .option(
      "--cluster <size>",
      "lazy: memory that goes with a page that is asked for (default: 64K)",
      byteCount("--cluster"),
    )
    .addOption(
      new Option(
        "--prefetch <when>",
        "lazy: send the working set before the guest runs (default), or right after; off also records none",
      ).choices(["before", "after", "off"]),
    )
    .option(
      "--prefetch-budget <size>",
      "lazy: most of a working set to send ahead (default: 256M)",
      byteCount("--prefetch-budget"),
    )
    .option("--working-set <path>", "lazy: where the working set is, or is recorded (default: FILE.ws)")
    .option(
      "--detach",
      "lazy: return when the guest is there, and leave a process behind that sends the rest",
    )
    .option("--log <path>", "lazy: what that process writes to (default: a new file for temporary files)")
    .addOption(new Option("--detached-server").hideHelp());
}

type RestoreFlags = Omit<Parameters<typeof import("../commands/restore.js").restore>[1], "then"> & {
  readonly run?: boolean;
  readonly paused?: boolean;
  readonly "directIo=auto"?: boolean;
};
