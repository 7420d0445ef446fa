import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import { ownStartTime, processState } from "../../src/session/process-state.js";

const onLinux = process.platform === "linux";

test.runIf(onLinux)(
  "a process lives until it has ended, whether or not its parent has noted it",
  async () => {
    expect(processState(process.pid)).toEqual({ isAlive: true, startTime: ownStartTime() });
    // The shell says whose parent it is, and becomes one that never asks for its children.
    const parent = spawn("/bin/sh", ["-c", "sleep 0 & echo $!; exec sleep 60"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    try {
      const [text] = (await once(parent.stdout, "data")) as [Buffer];
      const child = Number(text.toString());
      await expect.poll(() => readFileSync(`/proc/${child}/stat`, "latin1")).toMatch(/\) Z /);
      expect(processState(child).isAlive).toBe(false);
      expect(Number(processState(parent.pid ?? 0).startTime)).toBeGreaterThanOrEqual(Number(ownStartTime()));
    } finally {
      parent.kill("SIGKILL");
      await once(parent, "close");
    }
    expect(processState(parent.pid ?? 0)).toEqual({ isAlive: false });
  },
);
