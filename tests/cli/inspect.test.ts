import { copyFileSync, statSync, truncateSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { treeLines } from "../../src/cli/tree.js";
import { ByteWriter, decodeVmstate, parseVmstateLayout } from "../../src/wire/index.js";
import { corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** The lines of a device with these fields. */
function linesOf(fields: string, payload: Uint8Array, limit = 64, width = 80): string[] {
  const text = `{"devices": [{"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, "fields": ${fields}}]}`;
  const [layout] = parseVmstateLayout(text, 0).devices;
  const events = decodeVmstate(layout, { section: "dev", payload, payloadOffset: 500 });
  return [...treeLines(events, { payload, payloadOffset: 500, width, limit })];
}

const field = (name: string, type: string, size: number, more = ""): string =>
  `{"name": "${name}", ${more}"type": "${type}", "size": ${size}}`;

describe("a device's tree", () => {
  test("numbers, timers and text", () => {
    const fields = [
      field("small", "uint8", 1),
      field("large", "uint32", 4),
      field("negative", "int32", 4),
      field("timer", "timer", 8),
      field("name", "buffer", 8),
    ];
    const payload = new ByteWriter()
      .u8(7)
      .u32(0xfee00900)
      .u32(0xfffffffe)
      .u64(2n ** 64n - 1n);
    payload.raw(new TextEncoder().encode("paused\0\0"));
    expect(linesOf(`[${fields.join(", ")}]`, payload.finish())).toEqual([
      "  small: 7",
      "  large: 4276095232 (0xfee00900)",
      "  negative: -2",
      "  timer: -1 (not set)",
      '  name: "paused" (8 bytes)',
    ]);
  });

  test("arrays: equal neighbours once, long ones wrapped and cut", () => {
    const array = (length: number): string => `[${field("a", "uint16", 2, `"array_len": ${length}, `)}]`;
    const values = new ByteWriter().u16(1).u16(0).u16(0).u16(0x1234).finish();
    expect(linesOf(array(4), values)).toEqual(["  a[4]: 0x1, 0x0 x 2, 0x1234"]);
    expect(linesOf(array(4), values, 2)).toEqual(["  a[4]: 1, 0 x 2, ... 1 more"]);
    expect(linesOf(array(9), new Uint8Array(18))).toEqual(["  a[9]: 0 x 9"]);
    const many = Uint8Array.from({ length: 120 }, (_, index) => (index % 2) * index);
    const lines = linesOf(array(60), many, 64, 40);
    expect(lines.length).toBeGreaterThan(3);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(40);
  });

  test("elements with the same bytes are said to be the same, and too many are counted", () => {
    const struct = `"struct": {"vmsd_name": "e", "version": 1, "fields": [${field("x", "uint8", 1)}]}, `;
    const fields = `[${field("s", "struct", 1, `"array_len": 6, ${struct}`)}, ${field("z", "uint8", 1)}]`;
    const payload = new Uint8Array([1, 1, 1, 2, 2, 3, 9]);
    const first = ["  s[]:", "    [0] (e):", "      x: 1", "    [1..2]: the same as [0]"];
    expect(linesOf(fields, payload)).toEqual([
      ...first,
      "    [3] (e):",
      "      x: 2",
      "    [4]: the same as [3]",
      "    [5] (e):",
      "      x: 3",
      "  z: 9",
    ]);
    expect(linesOf(fields, payload, 1)).toEqual([...first, "    ... 3 more", "  z: 9"]);
  });

  test("buffers: rows as wide as the terminal, cut at the limit", () => {
    const bytes = Uint8Array.from({ length: 80 }, (_, index) => (index < 70 ? index + 1 : 0));
    const buffer = `[${field("b", "buffer", 80)}]`;
    const [head, first, ...rest] = linesOf(buffer, bytes, 32, 60);
    expect(head).toBe("  b: 80 bytes");
    expect(first).toBe("    01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10");
    expect(rest.at(-1)).toBe("    ... 48 bytes more");
    expect(linesOf(buffer, bytes, 70).at(-1)).toBe("    ... 10 bytes more, all zero");
    expect(linesOf(buffer, new Uint8Array(80))).toEqual(["  b: 80 bytes, all zero"]);
    expect(linesOf(`[${field("v", "virtio", 3)}]`, new Uint8Array([1, 2, 3]))).toEqual([
      "  v: of a type that ramport does not know (virtio), 3 bytes, 01 02 03",
    ]);
  });

  test("names and texts cannot control the terminal", () => {
    const lines = linesOf(`[${field(String.raw`\u001b]0;owned\u0007`, "uint8", 1)}]`, new Uint8Array([1]));
    expect(lines).toEqual([String.raw`  \u{1b}]0;owned\u{7}: 1`]);
  });
});

describeWithCorpus("ramport inspect", () => {
  const file = (): string => corpusPath(corpusFile("q100-mr-pc"));

  test("everything, readable on a terminal", async () => {
    const { code, stdout, stderr } = await ramport(["inspect", file()]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^pc-i440fx-10\.0, paused when saved: 31 devices\n/);
    expect(stdout).toMatch(/\n {2}env\.eip: \d+/);
    const lines = stdout.split("\n");
    expect(lines.length).toBeLessThan(1000);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(120);
  });

  test("single devices, by name, glob and instance", async () => {
    const namesOf = async (...globs: string[]): Promise<string[]> => {
      const args = globs.flatMap((glob) => ["--device", glob]);
      const { devices } = await ramportJson(["inspect", file(), ...args]);
      return (devices as { name: string; instance: number }[]).map((it) => `${it.name}/${it.instance}`);
    };
    expect(await namesOf("timer")).toEqual(["timer/0"]);
    expect(await namesOf("timer", "globalstate/0")).toEqual(["timer/0", "globalstate/0"]);
    expect(await namesOf("i8259/1")).toEqual(["i8259/1"]);
    expect(await namesOf("*piix4_pm")).toEqual(["0000:00:01.3/piix4_pm/0"]);
    expect(await namesOf("*")).toHaveLength(31);
    const none = await ramport(["inspect", file(), "--device", "toaster"]);
    expect(none.code).toBe(2);
    expect(none.stderr).toMatch(/No device fits.*toaster/);
  });

  test("--bytes shows more of a buffer", async () => {
    const rows = async (...args: string[]): Promise<number> => {
      const { stdout } = await ramport(["inspect", file(), "--device", "*PIIX3", ...args]);
      return stdout.split("\n").length;
    };
    expect(await rows("--bytes", "256")).toBe((await rows()) + 5);
  });

  test("--describe prints the description", async () => {
    const { code, stdout } = await ramport(["inspect", file(), "--describe", "--device", "timer"]);
    expect(code).toBe(0);
    const { devices } = JSON.parse(stdout) as { devices: { name: string; fields: unknown[] }[] };
    expect(devices).toMatchObject([{ name: "timer", fields: [{ name: "cpu_ticks_offset" }, {}, {}] }]);
  });

  test("a file that is cut off shows what it has, and fails", async () => {
    const cut = workDir.file("vm.ram");
    copyFileSync(file(), cut);
    truncateSync(cut, statSync(cut).size - 1000);
    for (const args of [[], ["--json"]]) {
      const { code, stdout, stderr } = await ramport(["inspect", cut, ...args]);
      expect(code).toBe(1);
      expect(stderr).toMatch(/^ramport: .*description/);
      expect(stdout).toContain("globalstate");
    }
  });
});
