/** The modes of `ramport restore`, as far as they go without a QEMU. */
import { describe, expect, test } from "vitest";

import { ramport } from "../support/ramport-cli.js";

const restore = (...args: readonly string[]) =>
  ramport(["restore", "vm.ram", "--qmp", "/nowhere.qmp", ...args]);

describe("restore --mode", () => {
  test.each([
    [["--lazy", "--mode", "eager"], "--lazy and --mode eager contradict each other"],
    [["--lazy", "--channels", "2"], "--channels belongs to --mode eager"],
    [["--lazy", "--method", "send"], "--method belongs to --mode eager"],
    [["--lazy", "--direct-io"], "--direct-io belongs to --mode eager"],
    [["--rate-limit", "1M"], "--rate-limit belongs to --mode lazy"],
    [["--detach"], "--detach belongs to --mode lazy"],
    [["--mode", "eager", "--working-set", "a.ws"], "--working-set belongs to --mode lazy"],
    [["--mode", "clone", "--lazy"], "--lazy and --mode clone contradict each other"],
    [["--mode", "clone", "--detach"], "--detach belongs to --mode lazy, and this is --mode clone"],
    [
      ["--mode", "clone", "--method", "mapped-ram"],
      "--method belongs to --mode eager, and this is --mode clone",
    ],
    [
      ["--mode", "clone", "--via", "unix:a"],
      "--via belongs to --mode eager and lazy, and this is --mode clone",
    ],
    [["--lazy", "--rate-limit", "fast"], "--rate-limit takes bytes"],
  ])("%j is refused", async (args, message) => {
    const { code, stderr } = await restore(...args);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });

  test("--detach passes on why the process that was to stay failed", async () => {
    const { code, stderr, stdout } = await restore("--lazy", "--detach", "--log", "/dev/null");
    expect(code).toBe(3);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^ramport: There is no socket at [^\n]*nowhere\.qmp[^\n]*\n$/);
  });
});
