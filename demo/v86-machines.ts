import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { buildMultibootImage } from "../guests/multiboot.js";
import { MachineError } from "../src/errors/index.js";
import type { DemoMachine, DemoMachines } from "./machines.js";
import type { Workspace } from "./workspace.js";

const MIB = 1 << 20;
const MEMORY_BYTES = 64 * MIB;
const PROGRAM = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const START_TIMEOUT_MS = 30_000;
const POLL_MS = 20;

/** Half a static picture that it checks, and memory that it rewrites; the rest stays zero. */
const GUEST = buildMultibootImage({
  staticRange: { start: MIB, end: 17 * MIB },
  dirtyRange: { start: 17 * MIB, end: 41 * MIB },
  togglingRange: { start: 41 * MIB, end: 45 * MIB },
});

/** PCs inside Node: `ramport vm`. */
export class V86Machines implements DemoMachines {
  readonly kind = "v86, inside Node";
  readonly memoryBytes = MEMORY_BYTES;
  readonly rewrittenBytes = 28 * MIB;
  readonly saveBandwidth = 64 * MIB;
  readonly #workspace: Workspace;
  readonly #running = new Set<ChildProcess>();
  #count = 0;

  constructor(workspace: Workspace) {
    this.#workspace = workspace;
    fs.writeFileSync(workspace.file("guest.bin"), GUEST);
  }

  async start(incoming: boolean): Promise<DemoMachine> {
    const name = `vm${++this.#count}`;
    const qmpPath = this.#workspace.file(`${name}.qmp`);
    const serialPath = this.#workspace.file(`${name}.serial`);
    fs.writeFileSync(serialPath, "");
    const child = spawn(
      process.execPath,
      [
        ...[PROGRAM, "vm", "-name", name, "-m", `${MEMORY_BYTES / MIB}M`],
        ...["-kernel", this.#workspace.file("guest.bin"), "-serial", `file:${serialPath}`],
        ...["-qmp", `unix:${qmpPath},server=on,wait=off`, ...(incoming ? ["-incoming", "defer"] : [])],
      ],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    this.#running.add(child);
    let complaints = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (complaints += text));
    const ended = once(child, "close").then(() => this.#running.delete(child));
    const end = performance.now() + START_TIMEOUT_MS;
    while (!fs.existsSync(qmpPath)) {
      if (child.exitCode !== null || performance.now() > end) {
        throw new MachineError("io", `The machine did not start: ${complaints.trim()}`);
      }
      await sleep(POLL_MS);
    }
    return {
      qmpPath,
      serialText: () => fs.readFileSync(serialPath, "latin1"),
      kill: async () => {
        child.kill();
        await ended;
      },
    };
  }

  async killAll(): Promise<void> {
    await Promise.all(
      [...this.#running].map(async (child) => {
        child.kill();
        await once(child, "close");
      }),
    );
  }
}
