import { printable } from "../../errors/index.js";
import { NUMBER_PLACEHOLDER, type QemuOption } from "./qemu-options.js";

/** Options whose value names a place that belongs to one process. */
const CHARACTER_DEVICES = new Set([
  "serial",
  "parallel",
  "monitor",
  "qmp",
  "qmp-pretty",
  "debugcon",
  "gdb",
  "chardev",
]);
/** Character devices that several processes can have. */
const HARMLESS_DEVICE =
  /^(null|none|vc|pty|msmouse|braille|ringbuf|chardev:|stdio|mon:stdio|mon:chardev|fd|spice)/;

/**
 * What several clones would write to or listen at together, unless their number is in it.
 *
 * Disks are not among it: QEMU itself refuses to write to one that another QEMU has open.
 */
export function listSharedThings(options: readonly QemuOption[], count: number): string[] {
  const problems: string[] = [];
  for (const { name, word, value } of options) {
    if (value === undefined || value.includes(NUMBER_PLACEHOLDER) || !belongsToOne(name, value)) continue;
    problems.push(
      `${word} ${printable(value)} would be the same for ${count} clones: put ${NUMBER_PLACEHOLDER}, their number, into it`,
    );
  }
  return problems;
}

function belongsToOne(name: string, value: string): boolean {
  if (name === "pidfile" || name === "D") return true;
  if (name === "vnc") return value !== "none";
  if (name === "netdev") return value.startsWith("tap,") && value.includes("ifname=");
  return CHARACTER_DEVICES.has(name) && !HARMLESS_DEVICE.test(value);
}

/** Uses of standard input and output, which clones do not have: what ramport prints would mix with it. */
export function listTerminalUse(options: readonly QemuOption[]): string[] {
  const hint = "put it into a file or socket, such as -display none -serial file:serial-{n}.log";
  return options.flatMap(({ name, word, value }) => {
    if (name === "nographic" || (CHARACTER_DEVICES.has(name) && /^(mon:)?stdio(,|$)/.test(value ?? "")))
      return [`${[word, value].join(" ").trim()} is for a terminal, which clones do not have: ${hint}`];
    return [];
  });
}
