import type { Command } from "commander";

import type { CommonOptions } from "../context.js";
import { addDirectIo, type DirectIoFlags, takeDirectIo } from "../direct-io-option.js";
import type { TlsFlags } from "../tls-options.js";
import { addTlsOptions, defineCommand } from "./shared.js";

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
    ],
  );
  addDirectIo(addTlsOptions(command), "read").action(
    async (file: string, uri: string, flags: CommonOptions & DirectIoFlags & TlsFlags) => {
      const { send } = await import("../commands/send.js");
      await send(file, uri, takeDirectIo(flags));
    },
  );
}
