import type { Command } from "commander";

import { addDirectIo, type DirectIoFlags, takeDirectIo } from "../direct-io-option.js";
import { wholeNumber } from "../parse-options.js";
import { addTlsOptions, defineCommand, multifdSyncOption, targetPageSizeOption } from "./shared.js";

/** Defines `ramport receive`. */
export function addReceive(program: Command): void {
  const command = defineCommand(
    program,
    "receive <uri> <out>",
    "Wait for an incoming migration and write it as a mapped-ram file.",
    [
      "ramport receive unix:/tmp/in.sock vm.ram           # then, in QEMU: migrate unix:/tmp/in.sock",
      "ramport receive tcp:0.0.0.0:4444 vm.ram",
      "ramport receive --channels 4 unix:/tmp/in.sock vm.ram   # a source with multifd-channels 4",
      "ramport receive file:vm.stream vm.ram              # a stream that was saved before",
      "zstdcat vm.stream.zst | ramport receive - vm.ram",
      "ramport receive tcp:0.0.0.0:4444 vm.ram --tls-creds-x509 /etc/pki/qemu",
    ],
  )
    .option(
      "--channels <n>",
      "connections that the pages come over beside the main one: the source's multifd-channels",
      wholeNumber("--channels", 1, 255),
    )
    .addOption(multifdSyncOption())
    .option("--force", "replace an existing file")
    .addOption(targetPageSizeOption());
  addTlsOptions(addDirectIo(command, "write pages")).action(
    async (uri: string, out: string, { force, ...flags }: ReceiveFlags) => {
      const { receive } = await import("../commands/receive.js");
      await receive(uri, out, { ...takeDirectIo(flags), ...(force === true ? { replace: true } : {}) });
    },
  );
}

type ReceiveFlags = Omit<
  Parameters<typeof import("../commands/receive.js").receive>[2],
  "replace" | "directIo"
> &
  DirectIoFlags & { readonly force?: boolean };
