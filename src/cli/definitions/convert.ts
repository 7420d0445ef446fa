import { type Command, Option } from "commander";

import { addDirectIo, type DirectIoFlags, takeDirectIo } from "../direct-io-option.js";
import { defineCommand, targetPageSizeOption } from "./shared.js";

/** Defines `ramport convert`. */
export function addConvert(program: Command): void {
  const command = defineCommand(
    program,
    "convert <in> <out>",
    "Write a snapshot in another form: a mapped-ram file, a stream, or what libvirt wraps around them.",
    [
      "ramport convert vm.stream vm.ram --to mapped-ram",
      "ramport convert vm.ram vm.stream --to stream       # QEMU: -incoming 'exec:cat vm.stream'",
      "zstdcat vm.stream.zst | ramport convert - vm.ram --to mapped-ram",
      "ramport convert old.ram clean.ram --to mapped-ram  # anew, without what pages held before",
      "ramport convert vm.ram disk.img,offset=1M --to mapped-ram",
      "ramport convert guest.save vm.ram --to mapped-ram  # a libvirt save image, packed or not",
      "ramport convert vm.ram new.save --to mapped-ram --libvirt-header guest.save",
    ],
  )
    .addOption(
      new Option("--to <format>", "what to write").choices(["mapped-ram", "stream"]).makeOptionMandatory(),
    )
    .option("--libvirt-header <image>", "make a libvirt save image with the domain of this one")
    .option("--force", "replace an existing file")
    .addOption(targetPageSizeOption());
  addDirectIo(command, "read and write").action(
    async (input: string, output: string, { force, ...flags }: ConvertFlags) => {
      const { convert } = await import("../commands/convert.js");
      await convert(input, output, { ...takeDirectIo(flags), ...(force === true ? { replace: true } : {}) });
    },
  );
}

type ConvertFlags = Omit<
  Parameters<typeof import("../commands/convert.js").convert>[2],
  "replace" | "directIo"
> &
  DirectIoFlags & { readonly force?: boolean };
