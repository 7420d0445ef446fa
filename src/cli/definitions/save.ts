import { type Command, Option } from "commander";

import { byteCount, seconds, wholeNumber } from "../parse-options.js";
import { addMultifdCompression } from "./multifd.js";
import { addTlsOptions, defineCommand, qmpOption, viaOption } from "./shared.js";

/** Defines `ramport save`. */
export function addSave(program: Command): void {
  const command = defineCommand(
    program,
    "save <out>",
    "Save the VM behind a QMP socket into a mapped-ram file.",
    [
      "ramport save --qmp /run/vm.qmp vm.ram              # stop the guest, save it, leave it stopped",
      "ramport save --qmp /run/vm.qmp --resume vm.ram     # ... and let it run again",
      "ramport save --qmp /run/vm.qmp --live vm.ram       # save while it runs; it stops at the switch-over",
      "ramport save --qmp /run/vm.qmp --channels 4 vm.ram # QEMU writes with four threads",
      "ramport save --qmp /run/vm.qmp --method stream --channels 4 vm.ram   # ... sends over four connections",
      "ramport save --qmp tcp:host:5555 --via tcp:me:4444 --tls-creds-x509 /etc/pki/qemu vm.ram",
    ],
  )
    .addOption(qmpOption())
    .option("--live", "keep the guest running until the switch-over")
    .option("--resume", "let the guest run again afterwards, if it ran before")
    .addOption(
      new Option(
        "--method <name>",
        "who writes the file: QEMU 9.0 and newer (mapped-ram), or ramport (stream)",
      )
        .choices(["auto", "mapped-ram", "stream"])
        .default("auto"),
    )
    .option(
      "--channels <n>",
      "multifd channels: QEMU's threads (mapped-ram), or connections for the pages (stream)",
      wholeNumber("--channels", 1, 255),
    )
    .addOption(
      new Option(
        "--zero-page-detection <where>",
        "where QEMU looks for zero pages: nowhere, its main thread, its channels' threads (9.0 and newer)",
      ).choices(["none", "legacy", "multifd"]),
    )
    .option("--direct-io", "write past the page cache (mapped-ram method, QEMU 9.1 and newer)")
    .option(
      "--stop-after <seconds>",
      "with --live: stop a guest that does not converge after this time (default: 60 s after the first pass)",
      seconds("--stop-after"),
    )
    .option(
      "--max-bandwidth <bytes>",
      "most bytes a second, e.g. 500M (default: no limit)",
      byteCount("--max-bandwidth"),
    )
    .addOption(viaOption())
    .option("--force", "replace an existing file");
  addTlsOptions(addMultifdCompression(command)).action(
    async (out: string, { stopAfter, force, ...options }: SaveFlags) => {
      const { save } = await import("../commands/save.js");
      await save(out, {
        ...options,
        ...(stopAfter === undefined ? {} : { stopAfterSeconds: stopAfter }),
        ...(force === true ? { replace: true } : {}),
      });
    },
  );
}

type SaveFlags = Omit<
  Parameters<typeof import("../commands/save.js").save>[1],
  "stopAfterSeconds" | "replace"
> & {
  readonly stopAfter?: number;
  readonly force?: boolean;
};
