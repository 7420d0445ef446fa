import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";

import { findQemu } from "../tests/support/qemu.js";
import { QEMU_VERSION } from "./guest.js";

/** What the figures depend on. */
export interface Surroundings {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  readonly qemu: string;
  readonly fileSystem: string;
  /** Of ramport; empty outside of a repository. */
  readonly commit: string;
  readonly date: string;
  /** Processes that wanted a processor in the last minute, at the beginning. */
  readonly load: number;
}

/** Numbers that statfs gives for the usual file systems. */
const FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0xef53, "ext4"],
  [0x5846_5342, "xfs"],
  [0x9123_683e, "btrfs"],
  [0x0102_1994, "tmpfs"],
  [0x794c_7630, "overlayfs"],
]);

/** Looks at this machine and at the file system of a directory. */
export function describeSurroundings(directory: string): Surroundings {
  const qemu = findQemu(QEMU_VERSION);
  const { type } = fs.statfsSync(directory);
  return {
    cpu: os.cpus()[0]?.model ?? "unknown",
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    kernel: `${os.type()} ${os.release()}`,
    node: process.version,
    qemu: qemu.found ? qemu.realVersion : qemu.reason,
    fileSystem: FILE_SYSTEMS.get(type) ?? `0x${type.toString(16)}`,
    commit: spawnSync("git", ["describe", "--always", "--dirty"], { encoding: "utf8" }).stdout.trim(),
    date: new Date().toISOString().slice(0, 10),
    load: os.loadavg()[0] ?? NaN,
  };
}

/** As lines in front of the tables. */
export function formatSurroundings(where: Surroundings): string {
  const memory = `${(where.memoryBytes / 2 ** 30).toFixed(1)} GiB`;
  return [
    `${where.cpu}, ${where.cores} cores, ${memory}; ${where.kernel}; files on ${where.fileSystem}`,
    `Node ${where.node}, QEMU ${where.qemu}, ramport ${where.commit}; ${where.date}, load at the start ${where.load.toFixed(2)}`,
    "Each cell: median (lowest–highest)",
  ].join("\n");
}
