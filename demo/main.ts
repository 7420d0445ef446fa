/**
 * The demo's front: options, interruption, errors in one line. Started by scripts/demo.mjs.
 *
 * @module
 */

import { CancelledError, RamportError } from "../src/errors/index.js";
import type { DemoMachines } from "./machines.js";
import { findDemoQemu, QemuMachines } from "./qemu-machines.js";
import { duration, type Output, Screen } from "./screen.js";
import { tellStory } from "./story.js";
import { V86Machines } from "./v86-machines.js";
import { Workspace } from "./workspace.js";

const HELP = `npm run demo               move, save and restore a PC that runs inside Node
npm run demo -- --qemu     the same with the QEMU of this machine
npm run demo -- --help     this text`;

/**
 * Runs the demo.
 *
 * @returns The exit status: 0, 1 when it failed, 2 for an unknown option, 130 when it was interrupted.
 */
export async function runDemo(args: readonly string[], output: Output = process.stdout): Promise<number> {
  const screen = new Screen(output);
  if (args.includes("--help")) {
    screen.line(HELP);
    return 0;
  }
  const withQemu = args.includes("--qemu");
  const unknown = args.find((arg) => arg !== "--qemu");
  if (unknown !== undefined) {
    screen.line(`The demo has no option ${unknown}.\n${HELP}`);
    return 2;
  }
  const controller = new AbortController();
  const interrupt = (): void => controller.abort();
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of signals) process.on(name, interrupt);
  const workspace = new Workspace();
  const startMs = performance.now();
  let machines: DemoMachines | undefined;
  try {
    screen.line("ramport moves and saves virtual machines while they run.");
    screen.line();
    machines = withQemu ? new QemuMachines(workspace) : new V86Machines(workspace);
    await tellStory(screen, machines, workspace, controller.signal);
    screen.line();
    screen.line(`Done in ${duration(performance.now() - startMs)}; the file is gone again.`);
    const qemu = withQemu ? undefined : findDemoQemu();
    if (qemu !== undefined)
      screen.line(`The same with the QEMU ${qemu.realVersion} here: npm run demo -- --qemu`);
    return 0;
  } catch (error) {
    if (error instanceof CancelledError || controller.signal.aborted) {
      screen.line("Interrupted; nothing was left behind.");
      return 130;
    }
    if (!(error instanceof RamportError)) throw error;
    screen.line(`The demo failed: ${error.message}`);
    return 1;
  } finally {
    await machines?.killAll();
    workspace.remove();
    for (const name of signals) process.off(name, interrupt);
  }
}
