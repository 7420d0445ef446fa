import { gunzipSync } from "node:zlib";

import { expect, test } from "vitest";

import { linuxCommandLine } from "../../../guests/linux/command-line.mjs";
import { buildInitramfs, INIT_SCRIPT, packCpio } from "../../../guests/linux/initramfs.mjs";

interface Unpacked {
  readonly name: string;
  readonly mode: number;
  readonly device: readonly [number, number];
  readonly content: Buffer;
}

/** Reads a "newc" archive as the kernel's document describes it: aligned to 4 bytes, numbers of 8 hexadecimal digits. */
function unpackCpio(archive: Buffer): Unpacked[] {
  const entries: Unpacked[] = [];
  for (let at = 0; ;) {
    expect(archive.toString("latin1", at, at + 6)).toBe("070701");
    const field = (index: number): number =>
      Number.parseInt(archive.toString("latin1", at + 6 + index * 8, at + 14 + index * 8), 16);
    const [mode, size, major, minor, nameSize] = [1, 6, 9, 10, 11].map(field) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const nameEnd = at + 110 + nameSize;
    expect(archive[nameEnd - 1]).toBe(0);
    const name = archive.toString("utf8", at + 110, nameEnd - 1);
    const start = (nameEnd + 3) & ~3;
    at = (start + size + 3) & ~3;
    if (name === "TRAILER!!!") {
      expect(at).toBe(archive.length);
      return entries;
    }
    entries.push({ name, mode, device: [major, minor], content: archive.subarray(start, start + size) });
  }
}

test("names and contents of every length come back", () => {
  const given = [0, 1, 2, 3, 4, 5, 4095].map((length) => ({
    name: `d/${"n".repeat(length % 7)}x${length}`,
    mode: 0o100644,
    content: Buffer.alloc(length, length),
  }));
  const folder = { name: "d", mode: 0o040755 };
  const device = { name: "d/c", mode: 0o020600, device: [5, 1] } as const;
  expect(unpackCpio(packCpio([folder, device, ...given]))).toEqual([
    { ...folder, device: [0, 0], content: Buffer.alloc(0) },
    { ...device, content: Buffer.alloc(0) },
    ...given.map((entry) => ({ ...entry, device: [0, 0] })),
  ]);
});

test("the initramfs has what the kernel starts, and is the same each time", () => {
  const busybox = Buffer.from("the program");
  const made = buildInitramfs(busybox);
  expect(buildInitramfs(busybox).equals(made)).toBe(true);
  const entries = new Map(unpackCpio(gunzipSync(made)).map((entry) => [entry.name, entry]));
  expect(entries.get("init")).toMatchObject({ mode: 0o100755, content: Buffer.from(INIT_SCRIPT) });
  expect(entries.get("bin/busybox")).toMatchObject({ mode: 0o100755, content: busybox });
  expect(entries.get("dev/console")).toMatchObject({ mode: 0o020600, device: [5, 1] });
  // The first line names an interpreter that is in the archive.
  const interpreter = /^#!\/(\S+)/.exec(Buffer.from(INIT_SCRIPT).toString())?.[1];
  expect(entries.has(interpreter ?? "")).toBe(true);
  // init.sh mounts what it needs on folders of the archive.
  const mounts = [
    ...Buffer.from(INIT_SCRIPT)
      .toString()
      .matchAll(/^mount .* \/(\w+)$/gm),
  ].map(([, name]) => name);
  expect(mounts).toEqual(["proc", "sys", "dev", "data"]);
  for (const name of mounts) expect(entries.get(name ?? "")?.mode).toBe(0o040755);
});

test("the command line carries the workload, and only what is given", () => {
  expect(linuxCommandLine()).toMatch(/^console=ttyS0 /);
  expect(linuxCommandLine()).not.toContain("ramport.");
  expect(linuxCommandLine({ keptMiB: 8, rewrittenMiB: 2, pauseSeconds: 0.25 })).toMatch(
    / ramport\.kept=8 ramport\.rewritten=2 ramport\.pause=0\.25$/,
  );
});
