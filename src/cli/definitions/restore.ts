import { type Command, Option } from "commander";

import { wholeNumber } from "../parse-options.js";
import { addMultifdCompression } from "./multifd.js";
import { addTlsOptions, defineCommand, qmpOption, viaOption } from "./shared.js";

/** Defines `ramport restore`. */
export function addRestore(program: Command): void {
  const command = defineCommand(
    program,
    "restore <file>",
    "Load a mapped-ram file into a QEMU started with -incoming defer.",
    [
      "qemu-system-x86_64 -m 2G ... -incoming defer -qmp unix:/run/new.qmp,server=on,wait=off &",
      "ramport restore vm.ram --qmp /run/new.qmp          # runs, or is paused, as it was saved",
      "ramport restore vm.ram --qmp /run/new.qmp --run    # runs in any case",
      "ramport restore vm.ram --qmp tcp:host:5555 --via tcp:host:4444 --tls-psk /etc/pki/qemu/keys.psk",
      "ramport restore vm.ram --qmp /run/new.qmp --method send --channels 4",
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
    .addOption(viaOption());
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

type RestoreFlags = Omit<Parameters<typeof import("../commands/restore.js").restore>[1], "then"> & {
  readonly run?: boolean;
  readonly paused?: boolean;
  readonly "directIo=auto"?: boolean;
};
