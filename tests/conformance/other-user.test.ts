/** ramport as root, QEMU as somebody else: the socket between them has to let that user in, and nobody else. */

import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, chownSync, existsSync, mkdirSync } from "node:fs";
import process from "node:process";
import { afterEach, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import { ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const USER = 65_534;
const SETPRIV = "/usr/bin/setpriv";
const reason =
  process.getuid?.() !== 0 ? "skipped: not root" : existsSync(SETPRIV) ? undefined : "skipped: no setpriv";

let started: ChildProcess[] = [];

afterEach(async () => {
  for (const child of started) {
    if (child.exitCode !== null) continue;
    const ended = new Promise((resolve) => child.once("close", resolve));
    child.kill("SIGKILL");
    await ended;
  }
  started = [];
});

describeWithQemu("10.0", "ramport as root and QEMU as another user", (qemu) => {
  /** Starts a QEMU as that user, and waits until its QMP socket is there. */
  async function startAsUser(name: string, args: readonly string[]): Promise<string> {
    const folder = workDir.file("theirs");
    chmodSync(workDir.path, 0o711);
    mkdirSync(folder, { recursive: true });
    chownSync(folder, USER, USER);
    chmodSync(folder, 0o700);
    const qmp = `${folder}/${name}`;
    const user = ["--pdeathsig=KILL", `--reuid=${USER}`, `--regid=${USER}`, "--clear-groups"];
    const machine = ["-accel", "tcg", "-machine", "pc", "-m", "16M", "-display", "none", "-nodefaults"];
    const child = spawn(
      SETPRIV,
      [...user, qemu.command, ...qemu.args, ...machine, "-qmp", `unix:${qmp},server=on,wait=off`, ...args],
      { stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, ...qemu.env }, cwd: "/" },
    );
    started.push(child);
    await expect.poll(() => existsSync(qmp), { timeout: 30_000 }).toBe(true);
    return qmp;
  }

  test.skipIf(reason !== undefined)(
    `save and restore over a socket${reason === undefined ? "" : ` (${reason})`}`,
    async () => {
      const file = workDir.file("vm.ram");
      const source = await startAsUser("source", []);
      const saved = await ramportJson(["save", "--method", "stream", "--qmp", source, file]);
      expect(saved).toMatchObject({ method: "stream" });
      const destination = await startAsUser("destination", ["-incoming", "defer"]);
      const restored = await ramportJson(["restore", "--method", "send", "--qmp", destination, file]);
      expect(restored).toMatchObject({ method: "send" });
    },
  );
});
