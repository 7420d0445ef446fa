import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { runDemo } from "../../demo/main.js";
import { useWorkDir } from "../support/work-dir.js";

const demo = new URL("../../demo/main.ts", import.meta.url).href;
const tsx = new URL("../../node_modules/tsx/dist/esm/index.mjs", import.meta.url).href;

const workDir = useWorkDir();

beforeEach(() => {
  vi.stubEnv("TMPDIR", workDir.path);
});

afterEach(() => {
  vi.unstubAllEnvs();
});

async function run(
  args: readonly string[],
  onLine?: (text: string) => void,
): Promise<{ status: number; text: string }> {
  let text = "";
  const write = (piece: string): void => {
    text += piece;
    onLine?.(text);
  };
  const status = await runDemo(args, { write });
  return { status, text };
}

describe("npm run demo", () => {
  test("shows a move, a save and a restore on one screen, and leaves nothing behind", async () => {
    const { status, text } = await run([]);
    expect(status).toBe(0);
    const lines = text.trimEnd().split("\n");
    expect(lines.length).toBeLessThanOrEqual(24);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(80);
    const sizes = lines
      .filter((line) => line.includes("#"))
      .map((line) => Number(/([\d.]+) MiB/.exec(line)?.[1]));
    const [stream = 0, file = 0, allocated = 0] = sizes;
    expect(file).toBeCloseTo(68, 0);
    expect(stream).toBeGreaterThan(2 * file);
    expect(allocated).toBeLessThan(file);
    expect(text).toMatch(/2 move .* rounds/);
    expect(text).toMatch(/4 restore .*\n.*pass \d+ ok, pass \d+ ok, pass \d+ ok/);
    expect(fs.readdirSync(workDir.path)).toEqual([]);
  });

  test("interrupted, it cleans up, says so and ends", async () => {
    const program = `import { runDemo } from ${JSON.stringify(demo)};
      process.exitCode = await runDemo([]);`;
    const child = spawn(process.execPath, ["--import", tsx, "--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 20_000,
    });
    let text = "";
    let interrupted = false;
    const take = (piece: Buffer): void => {
      text += piece.toString();
      // It is at its second step then. Once only: a second one while it ends would kill it.
      if (interrupted || !text.includes("rewrites") || text.includes("save ")) return;
      interrupted = child.kill("SIGINT");
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    const [status] = (await once(child, "close")) as [number | null];
    expect(text.split("\n").at(-2)).toBe("Interrupted; nothing was left behind.");
    expect(status).toBe(130);
    expect(fs.readdirSync(workDir.path).filter((name) => name.startsWith("ramport"))).toEqual([]);
  });

  test("knows its options", async () => {
    expect((await run(["--help"])).text).toContain("--qemu");
    expect((await run(["--nonsense"])).status).toBe(2);
  });
});
