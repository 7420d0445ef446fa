/**
 * Runs QEMU machines for tests and for the benchmark.
 *
 * @module
 */

import { spawn } from "node:child_process";
import type { ChildProcessByStdio } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Readable } from "node:stream";

import { MachineError, UsageError } from "../../src/errors/index.js";
import { findQemu } from "./find-qemu.js";
import type { QemuVersion } from "./find-qemu.js";
import { SerialLog } from "./serial-log.js";
import { WatchedMachine } from "./watched-machine.js";

export { findQemu, QEMU_VERSIONS } from "./find-qemu.js";
export type { FoundQemu, NoQemu, QemuVersion } from "./find-qemu.js";

/** What machine to run. The source and the destination of a migration take the same but for `version`. */
export interface StartQemuOptions {
  readonly version: QemuVersion;
  /** Value of `-machine`; default `pc`. Two versions need a type that both know: `pc-i440fx-7.2`. */
  readonly machine?: string;
  /** Size of RAM, a multiple of 8 KiB: QEMU would round another one up. */
  readonly memoryBytes: number;
  /** More arguments. */
  readonly args?: readonly string[];
  /** From `guests/`: a boot disk is put in a write-protected floppy drive, a Multiboot image is loaded as a kernel. */
  readonly guestImage?: Uint8Array;
  /** Waits for a migration: `defer` for one that `migrate-incoming` names later, or an address. */
  readonly incoming?: string;
  /** The processor does not start by itself. */
  readonly paused?: boolean;
  /** Existing folder for the guest's image and the serial output. */
  readonly workDir: string;
}

/** How a process ended. */
export interface QemuExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

type QemuProcess = ChildProcessByStdio<null, null, Readable>;

/** Longest path of a Unix socket, without the zero at its end. */
const SOCKET_PATH_LIMIT = 107;
/** Lets the kernel end the machine with this process, even when this one is killed and runs no hook. */
const SETPRIV = "/usr/bin/setpriv";

const running = new Set<QemuMachine>();
let machineCount = 0;

process.on("exit", () => {
  for (const machine of running) machine.killNow();
});

/** A running QEMU. */
export class QemuMachine extends WatchedMachine {
  /** QMP socket for what is tested; takes one connection at a time. */
  readonly qmpPath: string;
  override readonly harnessQmpPath: string;
  readonly version: QemuVersion;
  /** Whole command line. */
  readonly commandLine: readonly string[];
  /** Settles when the process has ended. */
  readonly exited: Promise<QemuExit>;
  readonly #process: QemuProcess;
  readonly #socketFolder: string;
  #stderr = "";
  #exit: QemuExit | undefined;

  /** Use {@link startQemu}. */
  constructor(options: StartQemuOptions) {
    const serialPath = path.join(options.workDir, `serial-${process.pid}-${++machineCount}.log`);
    super("QEMU", new SerialLog(serialPath));
    this.version = options.version;
    const qemu = findQemu(options.version);
    if (!qemu.found) throw new MachineError("not-capable", qemu.reason);
    this.#socketFolder = mkdtempSync(path.join(tmpdir(), "rp-"));
    this.qmpPath = path.join(this.#socketFolder, "qmp");
    this.harnessQmpPath = path.join(this.#socketFolder, "harness");
    if (this.harnessQmpPath.length > SOCKET_PATH_LIMIT) {
      throw new UsageError("The temporary folder's path is too long for a socket", {
        path: this.harnessQmpPath,
      });
    }
    const sockets = [this.qmpPath, this.harnessQmpPath];
    const args = [...qemu.args, ...machineArgs(options, serialPath, sockets)];
    const prefix = existsSync(SETPRIV) ? [SETPRIV, "--pdeathsig", "KILL"] : [];
    this.commandLine = [qemu.command, ...args];
    const [command = qemu.command, ...rest] = [...prefix, ...this.commandLine];
    this.#process = spawn(command, rest, {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, ...qemu.env },
    });
    running.add(this);
    this.#process.stderr.setEncoding("utf8").on("data", (text: string) => (this.#stderr += text));
    this.exited = new Promise((resolve) => {
      const ended = (code: number | null, signal: NodeJS.Signals | null): void => {
        this.#exit ??= { code, signal };
        this.#cleanUp(this.#exit);
        resolve(this.#exit);
      };
      this.#process.once("close", ended);
      this.#process.once("error", (error) => {
        this.#stderr += error.message;
        ended(null, null);
      });
    });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** What QEMU complained about so far. */
  override get stderr(): string {
    return this.#stderr;
  }

  protected override get hasEnded(): boolean {
    return this.#exit !== undefined;
  }

  /** Ends the process and waits for it. */
  async kill(): Promise<QemuExit> {
    this.killNow();
    return this.exited;
  }

  /** Ends the process without waiting: all that can be done when this process itself ends. */
  override killNow(): void {
    this.#process.kill("SIGKILL");
    rmSync(this.#socketFolder, { recursive: true, force: true });
  }

  #cleanUp(exit: QemuExit): void {
    running.delete(this);
    this.release(exit);
    rmSync(this.#socketFolder, { recursive: true, force: true });
  }
}

/**
 * Starts a QEMU and waits until it answers on QMP.
 *
 * @throws MachineError when there is no such QEMU, or it ends at once.
 */
export async function startQemu(options: StartQemuOptions): Promise<QemuMachine> {
  const machine = new QemuMachine(options);
  try {
    await machine.connect();
  } catch (error) {
    await machine.kill();
    throw error;
  }
  return machine;
}

/** Ends every machine that this process started. */
export async function killAllQemus(): Promise<void> {
  await Promise.all([...running].map((machine) => machine.kill()));
}

/** In a value of an option, a comma would end it. */
function escapeCommas(value: string): string {
  return value.replaceAll(",", ",,");
}

/** The arguments of a machine, behind those of {@link findQemu}: for what starts QEMUs itself. */
export function machineArgs(
  options: Omit<StartQemuOptions, "version">,
  serialPath: string,
  sockets: readonly string[] = [],
): string[] {
  const { memoryBytes } = options;
  if (!Number.isInteger(memoryBytes / 8192)) {
    throw new UsageError("memoryBytes must be a multiple of 8 KiB", { actual: memoryBytes });
  }
  return [
    ...["-accel", "tcg", "-display", "none", "-nodefaults", "-no-user-config"],
    ...["-machine", options.machine ?? "pc", "-m", `${memoryBytes / 1024}K`],
    ...sockets.flatMap((socket) => ["-qmp", `unix:${escapeCommas(socket)},server=on,wait=off`]),
    ...[
      "-chardev",
      `file,id=harness-serial,path=${escapeCommas(serialPath)}`,
      "-serial",
      "chardev:harness-serial",
    ],
    ...(options.guestImage === undefined ? [] : guestArgs(options.guestImage, options.workDir)),
    ...(options.incoming === undefined ? [] : ["-incoming", options.incoming]),
    ...(options.paused === true ? ["-S"] : []),
    ...(options.args ?? []),
  ];
}

/** Two machines with the same guest use the same file: it is named after its content, and nobody writes to it. */
function guestArgs(image: Uint8Array, workDir: string): string[] {
  const name = createHash("sha256").update(image).digest("hex").slice(0, 12);
  const file = path.join(workDir, `guest-${name}.img`);
  if (!existsSync(file) || !readFileSync(file).equals(image)) {
    mkdirSync(workDir, { recursive: true });
    writeFileSync(`${file}.${process.pid}`, image);
    renameSync(`${file}.${process.pid}`, file);
  }
  const isBootDisk = image[510] === 0x55 && image[511] === 0xaa;
  return isBootDisk
    ? ["-drive", `file=${escapeCommas(file)},format=raw,if=floppy,readonly=on`]
    : ["-kernel", file];
}
