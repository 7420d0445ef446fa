/** A QEMU that takes the engine's guest by postcopy, and finds out only then that it cannot load the devices. */

import { describe, expect, onTestFinished, test } from "vitest";

import { MigrationControl } from "../../src/engine/index.js";
import type { KnownMigrationStatus } from "../../src/qapi/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { PostcopyToyHost } from "../support/postcopy-host.js";
import { startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const RAM_BYTES = 4 << 20;

const ENDS: readonly KnownMigrationStatus[] = ["failed", "postcopy-paused"];

describe.each([
  // Ends without a word: what it may have done nobody knows.
  ["7.2", ["postcopy-paused"]],
  // One of its threads says so, another one ends the process.
  ["10.0", ENDS],
  // Says so once it has read more of the stream.
  ["11.1", ["failed"]],
] as const)("a device that the destination does not have", (version, expected) => {
  describeWithQemu(version, `QEMU ${version}, a machine of nothing but memory`, () => {
    test(`leaves the source ${expected.join(" or ")}`, async () => {
      const qemu = await startQemu({
        version,
        machine: "none",
        memoryBytes: RAM_BYTES,
        incoming: "defer",
        workDir: workDir.path,
      });
      const capabilities = [{ capability: "postcopy-ram", state: true }];
      await qemu.qmp("migrate-set-capabilities", { capabilities });
      const uri = `unix:${workDir.file("in")}`;
      await qemu.qmp("migrate-incoming", { uri });

      const host = new PostcopyToyHost("none", [{ name: "ram", usedLength: RAM_BYTES, hostPageSize: 4096 }]);
      host.memory.blocks[0]!.bytes.fill(7);
      host.devices = [
        {
          name: "toy",
          instance: 0,
          version: 1,
          payload: Uint8Array.of(1, 2, 3),
          fields: [{ name: "state", type: "buffer", size: 3 }],
        },
      ];
      await host.run();
      const statuses: KnownMigrationStatus[] = [];
      const control = new MigrationControl(host, { onStatus: (next) => statuses.push(next) });
      onTestFinished(() => control.close());
      control.setCapabilities({ "postcopy-ram": true });
      control.setParameters({ "max-bandwidth": 1 << 20, "downtime-limit": 0 });
      await control.migrate({ uri });
      control.startPostcopy();
      await expect.poll(() => ENDS.some((end) => statuses.includes(end))).toBe(true);
      const status = statuses.at(-1);
      expect(expected).toContain(status);
      expect(statuses).toContain("postcopy-device");
      expect(host.running).toBe(status === "failed");
      // The guest is nowhere else.
      await qemu.exited;
      expect(qemu.stderr).toMatch(/loadvm failed|load of migration failed/);
    });
  });
});
