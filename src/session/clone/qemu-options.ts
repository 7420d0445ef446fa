/**
 * QEMU's command line as far as clones need it: which word is an option, which its value, and what stands in a value.
 *
 * @module
 */
import { printable, UsageError } from "../../errors/index.js";

/** A word of a command line with the value that belongs to it. */
export interface QemuOption {
  /** Without its dashes, `machine` for `-M`; empty for a word that is no option: QEMU takes it for a disk. */
  readonly name: string;
  /** As it was written. */
  readonly word: string;
  /** Absent for options that take none. */
  readonly value?: string;
}

/** A command line that runs a QEMU. */
export interface QemuCommandLine {
  /** The QEMU, behind whatever starts it: `["nice", "qemu-system-x86_64"]`. */
  readonly program: readonly string[];
  readonly options: readonly QemuOption[];
}

/** A setting within an option's value; key and value are without the doubling of commas. */
export interface OptionPart {
  readonly key: string;
  readonly value: string;
  /** As it was written. */
  readonly raw: string;
}

/** What a QEMU is called by all who package it; the second is a group's name too (`sudo -g kvm`). */
const QEMU_NAMES = [/^(qemu-system-.+|qemu-kvm.*)$/, /^kvm$/];

/** What starts another program that stands behind its own options: nobody can tell here where these end. */
const WRAPPERS = new Set(
  (
    "bwrap chroot chrt cgexec doas env firejail gdb gdbserver ionice ltrace nice nohup nsenter numactl perf pkexec prlimit " +
    "runuser setarch setpriv setsid stdbuf strace sudo systemd-run taskset time timeout unshare valgrind"
  ).split(" "),
);
/** The dynamic loader, by which a QEMU is started with other libraries. */
const LOADER = /^ld(?:64)?(?:-[\w.-]+)?\.so(?:\.\d+)*$/;

/** QEMU's options that take no value, of all versions since 7.2; every other one takes the next word, whatever it is. */
const FLAGS = new Set([
  "h",
  "help",
  "version",
  "S",
  "s",
  "alt-grab",
  "async-teardown",
  "ctrl-grab",
  "curses",
  "daemonize",
  "enable-fips",
  "enable-kvm",
  "enable-sync-profile",
  "full-screen",
  "jitdump",
  "mem-prealloc",
  "no-acpi",
  "no-fd-bootchk",
  "no-hpet",
  "no-quit",
  "no-reboot",
  "no-shutdown",
  "no-user-config",
  "nodefaults",
  "nographic",
  "old-param",
  "only-migratable",
  "perfmap",
  "portrait",
  "preconfig",
  "sdl",
  "semihosting",
  "singlestep",
  "snapshot",
  "usb",
  "win2k-hack",
  "xen-attach",
  "xen-domid-restrict",
]);

/** Where a word is called as QEMUs are; -1 where none is. */
function qemuIn(argv: readonly string[]): number {
  const places = QEMU_NAMES.map((name) => argv.findIndex((word) => name.test(baseName(word))));
  return places.find((place) => place >= 0) ?? -1;
}

/**
 * Divides a command line. The first word is the QEMU, whatever it is called; only behind a program that is known to start others
 * (`sudo`, a loader) the QEMU is the first word that is called as QEMUs are.
 *
 * @throws UsageError for an empty one, and when there is no such word.
 */
export function parseQemuCommandLine(argv: readonly string[]): QemuCommandLine {
  const [first] = argv;
  if (first === undefined) {
    throw new UsageError("There is no QEMU to start", { hint: "put its command line behind --" });
  }
  const at = isWrapper(first) ? qemuIn(argv) : 0;
  if (at < 0) {
    throw new UsageError(`Which word behind ${printable(first)} is the QEMU cannot be told`, {
      hint: "name it qemu-system-*, qemu-kvm or kvm, or put all but its options into a script",
    });
  }
  const end = at + 1;
  const program = argv.slice(0, end);
  const options: QemuOption[] = [];
  for (let index = end; index < argv.length; index++) {
    const word = argv[index] ?? "";
    const dashed = /^--?(.+)$/s.exec(word)?.[1];
    if (dashed === undefined) {
      options.push({ name: "", word });
      continue;
    }
    const name = dashed === "M" ? "machine" : dashed;
    const value = FLAGS.has(name) ? undefined : argv[++index];
    options.push({ name, word, ...(value === undefined ? {} : { value }) });
  }
  return { program, options };
}

function isWrapper(word: string): boolean {
  const name = baseName(word);
  return WRAPPERS.has(name) || LOADER.test(name);
}

function baseName(word: string): string {
  return word.slice(word.lastIndexOf("/") + 1);
}

/** The words of a command line, as they are given to the system. */
export function formatQemuCommandLine({ program, options }: QemuCommandLine): string[] {
  return [
    ...program,
    ...options.flatMap(({ word, value }) => (value === undefined ? [word] : [word, value])),
  ];
}

/** An option made here. */
export function option(name: string, value?: string): QemuOption {
  return { name, word: `-${name}`, ...(value === undefined ? {} : { value }) };
}

/**
 * Divides a value at its commas; a doubled comma is one that belongs to a setting.
 *
 * @param impliedKey What a first setting without `=` is the value of: `type` in `-machine pc`.
 */
export function parseParts(text: string, impliedKey: string): OptionPart[] {
  const raws = splitAtCommas(text);
  return raws.map((raw, index) => {
    const equals = raw.indexOf("=");
    if (equals >= 0) return { key: raw.slice(0, equals), value: undouble(raw.slice(equals + 1)), raw };
    if (index === 0) return { key: impliedKey, value: undouble(raw), raw };
    return { key: raw, value: "on", raw };
  });
}

/** In a run of commas, they pair off from its start. */
function splitAtCommas(text: string): string[] {
  const raws: string[] = [];
  let start = 0;
  for (let at = text.indexOf(","); at >= 0; at = text.indexOf(",", at)) {
    if (text[at + 1] === ",") at += 2;
    else {
      raws.push(text.slice(start, at));
      at += 1;
      start = at;
    }
  }
  return [...raws, text.slice(start)];
}

/** A value from settings as they were written. */
export function joinParts(parts: readonly Pick<OptionPart, "raw">[]): string {
  return parts.map(({ raw }) => raw).join(",");
}

/** A setting made here. */
export function part(key: string, value: string | number): OptionPart {
  return { key, value: String(value), raw: `${key}=${String(value).replaceAll(",", ",,")}` };
}

function undouble(text: string): string {
  return text.replaceAll(",,", ",");
}

const SUFFIXES = "bkmgtpe";

/**
 * Reads a size as QEMU does: a number with a suffix from B to E, or in hexadecimal.
 *
 * @param defaultScale What a number without a suffix counts, in bytes: `-m` counts MiB.
 * @returns undefined for what is none.
 */
export function parseSize(text: string, defaultScale: number): number | undefined {
  const groups = /^(?:(?<hex>0x[0-9a-f]+)|(?<number>\d+(?:\.\d+)?)(?<suffix>[bkmgtpe]?))$/i.exec(
    text,
  )?.groups;
  if (groups === undefined) return undefined;
  const { hex, number, suffix = "" } = groups;
  const scale = suffix === "" ? defaultScale : 1024 ** SUFFIXES.indexOf(suffix.toLowerCase());
  const bytes = hex === undefined ? Number(number) * scale : Number(hex) * defaultScale;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Stands for a clone's number in its command line. */
export const NUMBER_PLACEHOLDER = "{n}";

/** The command line of one clone. */
export function argumentsOfClone(argv: readonly string[], number: number): string[] {
  return argv.map((word) => word.replaceAll(NUMBER_PLACEHOLDER, String(number)));
}
