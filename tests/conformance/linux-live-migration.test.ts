/** Debian's Linux in `ramport vm`, moved from process to process while it computes. */
import { afterAll, expect, test } from "vitest";

import { describeWithLinux } from "../support/linux-guest.js";
import { LinuxVms } from "../support/linux-vms.js";
import { killAllVms } from "../support/vm-process.js";
import { useWorkDir } from "../support/work-dir.js";

describeWithLinux("a Linux guest that computes", (linux) => {
  const workDir = useWorkDir();
  afterAll(killAllVms);

  test("moves between processes: over its lines it is one guest, and all it knew is there", async () => {
    const guest = await LinuxVms.boot(linux, { keptMiB: 16, rewrittenMiB: 4, pauseSeconds: 0.05 });
    await guest.passes(2);
    const unlimited = { "max-bandwidth": 0, "downtime-limit": 300 };
    const first = await guest.move(workDir.file("first"), { parameters: unlimited });
    await guest.passes(2);
    expect(first.ram?.["dirty-sync-count"]).toBeGreaterThanOrEqual(3);
    // Memory that changed is sent again: more pages than the guest has, whole and empty ones together.
    expect((first.ram?.normal ?? 0) + (first.ram?.duplicate ?? 0)).toBeGreaterThan(
      (first.ram?.total ?? 0) / 4096,
    );

    // Slower than the guest dirties memory at times, with xbzrle; and a second time out of the same process line.
    const second = await guest.move(workDir.file("second"), {
      capabilities: { xbzrle: true },
      parameters: { "max-bandwidth": 48 << 20, "downtime-limit": 100, "xbzrle-cache-size": 64 << 20 },
    });
    await guest.passes(3);
    expect(second["xbzrle-cache"]?.["cache-size"]).toBe(64 << 20);
    expect(guest.report.startId).toMatch(/^[0-9a-f]{8}$/);
  }, 180_000);
});
