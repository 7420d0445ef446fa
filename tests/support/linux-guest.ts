/**
 * The Linux guest: Debian's kernel with an initramfs that checks its own memory, in a v86 of this process.
 *
 * @module
 */

import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe } from "vitest";

import { linuxCommandLine } from "../../guests/linux/command-line.mjs";
import type { Workload } from "../../guests/linux/command-line.mjs";
import { buildInitramfs } from "../../guests/linux/initramfs.mjs";
import { LinuxReport } from "../../guests/linux-report.js";
import type { LinuxPassReport } from "../../guests/linux-report.js";
import { MachineError } from "../../src/errors/index.js";
import { V86Host } from "../../src/hosts/v86/index.js";
import type { V86HostOptions } from "../../src/hosts/v86/index.js";
import { reportMissing } from "./missing.js";

/** Paths of what scripts/fetch-linux.mjs leaves. */
export interface FoundLinux {
  readonly found: true;
  readonly kernel: string;
  readonly initrd: string;
  readonly bios: string;
  readonly vgaBios: string;
}

/** Why there is none. */
export interface NoLinux {
  readonly found: false;
  readonly reason: string;
}

/** Looks into `RAMPORT_LINUX_CACHE`, or else .cache/linux. */
export function findLinux(): FoundLinux | NoLinux {
  const repo = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..", "..");
  const folder = path.resolve(process.env.RAMPORT_LINUX_CACHE ?? path.join(repo, ".cache", "linux"));
  const [kernel, initrd, bios, vgaBios, busybox, manifest] = [
    "vmlinuz",
    "initramfs.gz",
    "bios.bin",
    "vgabios.bin",
    "busybox",
    "linux.json",
  ].map((name) => path.join(folder, name)) as [string, string, string, string, string, string];
  if (![kernel, initrd, bios, vgaBios, busybox, manifest].every((file) => existsSync(file))) {
    return { found: false, reason: "no Linux guest; run: node scripts/fetch-linux.mjs" };
  }
  if (!buildInitramfs(readFileSync(busybox)).equals(readFileSync(initrd))) {
    return {
      found: false,
      reason: "the Linux guest is older than guests/linux; run: node scripts/fetch-linux.mjs",
    };
  }
  return { found: true, kernel, initrd, bios, vgaBios };
}

/** Options of {@link V86Host.create} for a machine that boots it. */
export function linuxHostOptions(linux: FoundLinux, workload: Workload = {}): V86HostOptions {
  const image = (file: string): { buffer: ArrayBuffer } => ({
    buffer: new Uint8Array(readFileSync(file)).buffer,
  });
  return {
    // v86 puts the initramfs at 64 MiB.
    memoryBytes: 128 << 20,
    v86: {
      bios: image(linux.bios),
      vga_bios: image(linux.vgaBios),
      bzimage: image(linux.kernel),
      initrd: image(linux.initrd),
      cmdline: linuxCommandLine(workload),
    },
  };
}

/** A machine, and what its guest reports. */
export interface LinuxMachine {
  readonly host: V86Host;
  readonly report: LinuxReport;
  /** Waits for so many more passes. Rejects when the guest reports a failure, and after `timeoutMs`, default 60 s. */
  passes(count: number, timeoutMs?: number): Promise<readonly LinuxPassReport[]>;
}

const hosts = new Set<V86Host>();

/**
 * Makes a machine that stands still.
 *
 * @param report Goes on with another machine's report: the guest of that one is to come here.
 */
export async function createLinuxMachine(
  options: V86HostOptions,
  report: LinuxReport = new LinuxReport(),
): Promise<LinuxMachine> {
  const host = await V86Host.create(options);
  hosts.add(host);
  let failure: Error | undefined;
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const resolve of waiting) resolve();
    waiting.clear();
  };
  let tail = "";
  host.onSerial((text) => {
    tail = (tail + text).slice(-1000);
    try {
      if (report.push(text).length > 0) wake();
    } catch (error) {
      failure ??= error as Error;
      wake();
    }
  });
  const passes = async (count: number, timeoutMs = 60_000): Promise<readonly LinuxPassReport[]> => {
    const before = report.passes.length;
    const deadline = AbortSignal.timeout(timeoutMs);
    deadline.addEventListener("abort", wake);
    for (;;) {
      if (failure !== undefined) throw failure;
      if (report.passes.length >= before + count) return report.passes.slice(before);
      if (deadline.aborted) {
        throw new MachineError("timeout", `The guest came to ${report.passes.length - before} passes only`, {
          expected: `${count} passes in ${timeoutMs} ms`,
          actual: tail,
        });
      }
      await new Promise<void>((resolve) => waiting.add(resolve));
    }
  };
  return { host, report, passes };
}

/** Ends a machine before the suite does. */
export async function destroyLinuxMachine({ host }: LinuxMachine): Promise<void> {
  hosts.delete(host);
  await host.destroy();
}

/**
 * A `describe` for tests that boot the Linux guest. A boot takes long, so tests may share a machine: all are destroyed
 * only after the last test.
 *
 * Without the guest the suite is skipped, and says why; with `CI` or `RAMPORT_REQUIRE_LINUX` in the environment it fails.
 */
export function describeWithLinux(title: string, body: (linux: FoundLinux) => void): void {
  const linux = findLinux();
  if (linux.found) {
    describe(title, () => {
      afterAll(async () => {
        for (const host of hosts) await host.destroy();
        hosts.clear();
      });
      body(linux);
    });
  } else {
    reportMissing({
      title,
      reason: linux.reason,
      variable: "RAMPORT_REQUIRE_LINUX",
      subject: "the Linux guest",
    });
  }
}
