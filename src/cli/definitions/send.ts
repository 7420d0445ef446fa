import type { Command } from "commander";

import type { CommonOptions } from "../context.js";
import { addDirectIo, type DirectIoFlags, takeDirectIo } from "../direct-io-option.js";
import { wholeNumber } from "../parse-options.js";
import { addMultifdCompression } from "./multifd.js";
import { addTlsOptions, defineCommand, multifdSyncOption } from "./shared.js";

/** Defines `ramport send`. */
export function addSend(program: Command): void {
  const command = defineCommand(
    program,
    "send <file> <uri>",
    "Send a mapped-ram file to a waiting QEMU, of any version, as a precopy stream.",
    [
      "qemu-system-x86_64 -m 2G ... -incoming unix:/tmp/in.sock &",
      "ramport send vm.ram unix:/tmp/in.sock",
      "ramport send vm.ram - | ssh host 'cat > /run/vm.stream'",
      "ramport send vm.ram tcp:host:4444 --tls-creds-x509 /etc/pki/qemu",
      "ramport send vm.ram tcp:host:4444 --channels 4    # where multifd is on, and multifd-channels is 4",
    ],
  ).option(
    "--channels <n>",
    "connections for the pages: the destination's multifd-channels, with multifd on",
    wholeNumber("--channels", 1, 255),
  );
  addMultifdCompression(command)
    .addOption(multifdSyncOption())
    .option("--uuid <uuid>", "the destination's, if it has one (default: the one in the file)");
  addDirectIo(addTlsOptions(command), "read").action(
    async (file: string, uri: string, flags: SendFlags & DirectIoFlags) => {
      const { send } = await import("../commands/send.js");
      await send(file, uri, takeDirectIo(flags));
    },
  );
}

type SendFlags = Omit<CommonOptions & Parameters<typeof import("../commands/send.js").send>[2], "directIo">;
