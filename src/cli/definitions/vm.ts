import { type Command, Option } from "commander";

import { UsageError } from "../../errors/index.js";
import type { VmFlags } from "../commands/vm.js";

/**
 * Defines `ramport vm`. Its options are QEMU's, with one dash: the command turns them into what the parser understands
 * before it parses, and back where they are shown.
 */
export function addVm(program: Command): void {
  const command = program
    .command("vm")
    .description("Run a v86 machine, with QEMU's options, monitor and migration. Needs the npm package v86.")
    .addOption(new Option("-m <size>", "RAM in MiB, or with K, M or G; default 128M"))
    .option(
      "--machine <setting>",
      "acpi=on: with ACPI's registers, so that the guest can sleep (S3); default acpi=off",
    )
    .option("--kernel <file>", "a Multiboot image, or a Linux kernel (needs -bios)")
    .option("--initrd <file>", "initial RAM disk")
    .option("--append <text>", "the kernel's command line")
    .option("--multiboot <file>", "a Multiboot image, started without a BIOS")
    .option("--bios <file>", "SeaBIOS")
    .option("--vgabios <file>", "VGA BIOS")
    .option("--hda <file>", "hard disk image; what the guest writes stays in memory")
    .option("--fda <file>", "floppy disk image")
    .option("--cdrom <file>", "CD image")
    .option("--serial <dev>", "stdio, file:PATH, unix:PATH, tcp:HOST:PORT or null; up to four times", collect)
    .option(
      "--qmp <dev>",
      "monitor at unix:PATH or tcp:HOST:PORT, with ,server=on,wait=off; several are possible",
      collect,
    )
    .option("--incoming <uri>", "the guest comes by a migration: a URI, or defer for migrate-incoming")
    .option("-S", "do not start the guest")
    .option("--name <name>", "name of the machine")
    .option("--uuid <uuid>", "UUID of the machine, for validate-uuid")
    .option("--add-fd <set>", "fd=N,set=M: descriptor N for file:/dev/fdset/M", collect)
    .option("--mem-path <file>", "a file that is the guest's RAM, for x-ignore-shared")
    .addOption(
      new Option("--mem-share <on>", "with -mem-path: write to the file itself").choices(["on", "off"]),
    )
    .option("--verbose", "say what is done and, on errors, what caused them")
    .configureHelp({ optionTerm: ({ flags }) => flags.replace(/^--/, "-") })
    .addHelpText("after", `\n${EXIT_CODES}\n\nExamples:\n${EXAMPLES.map((line) => `  $ ${line}`).join("\n")}`)
    .action(async (flags: VmFlags) => {
      const { verbose } = flags;
      if (verbose === true) await import("../verbose-log.js").then((module) => module.logToStandardError());
      const { vm } = await import("../commands/vm.js");
      await vm(flags);
    });
  const parse = command.parseOptions.bind(command);
  command.parseOptions = (argv) => parse(withTwoDashes(command, argv));
}

const EXIT_CODES =
  "Exit codes: 0 ended by quit or a signal, 1 the incoming migration failed, 2 wrong usage, 3 the machine failed.";

const EXAMPLES = [
  "ramport vm -m 64M -kernel guest.multiboot -serial stdio -qmp unix:/tmp/vm.qmp,server=on,wait=off",
  "ramport vm -m 64M -kernel guest.multiboot -qmp unix:/tmp/vm2.qmp -incoming defer",
  "ramport vm -m 128M -bios bios.bin -vgabios vgabios.bin -kernel vmlinuz -initrd initrd.gz -append console=ttyS0 -serial stdio",
  "ramport save --qmp /tmp/vm.qmp --live vm.ram",
];

/** QEMU takes a long option with one dash and with two. */
function withTwoDashes(command: Command, argv: readonly string[]): string[] {
  const result: string[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? "";
    const option = command.options.find(
      ({ short, long }) => [short, long].includes(word) || long === `-${word}`,
    );
    result.push(word === "-help" ? "--help" : (option?.long ?? word));
    // An option's value stays as it is, whatever it begins with.
    if (option?.required !== true) continue;
    const value = argv[++index];
    if (value === undefined) throw new UsageError(`${word} needs a value`);
    result.push(value);
  }
  return result;
}

function collect(value: string, values: readonly string[] = []): string[] {
  return [...values, value];
}
