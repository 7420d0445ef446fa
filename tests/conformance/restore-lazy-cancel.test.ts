/** A lazy restore that is cancelled when its QEMU has not read yet what makes the guest run. */

import { expect, test } from "vitest";

import { QmpClient } from "../../src/qmp/index.js";
import { restoreVmLazily } from "../../src/session/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { expectGoesOn, guestMachine, guestState, migrationOf } from "../support/migrating-guest.js";
import { PackageHolder } from "../support/package-holder.js";
import { startQemu } from "../support/qemu.js";
import { ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** The same client; QEMU listens somewhere else than it is told. */
function listeningAt(qmp: QmpClient, uri: string): QmpClient {
  const executeRaw = (command: string, args?: object, options?: object): Promise<unknown> =>
    qmp.executeRaw(command, command === "migrate-incoming" ? { uri } : args, options);
  return new Proxy(qmp, {
    get: (target, name) => {
      if (name === "execute") return executeRaw;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

describeWithQemu("11.1", "restore --lazy, cancelled with the package under way", () => {
  test("the QEMU gets the guest all the same, and can be taken up", async () => {
    const path = workDir.file("vm.ram");
    const source = await startQemu(guestMachine(workDir.path, { version: "11.1" }));
    await source.waitForPass(2);
    await ramportJson(["save", "--qmp", source.qmpPath, path]);
    const state = guestState(source);
    await source.kill();
    const machine = await startQemu(guestMachine(workDir.path, { version: "11.1", incoming: "defer" }));
    const [qemuSocket, relaySocket] = [workDir.file("qemu.sock"), workDir.file("relay.sock")];
    const holder = await PackageHolder.listen(relaySocket, qemuSocket);
    const client = await QmpClient.connect(machine.qmpPath, { oob: "auto" });
    const cancel = new AbortController();
    void holder.arrived.then(() => {
      cancel.abort();
      holder.release();
    });
    try {
      const restoring = restoreVmLazily(listeningAt(client, `unix:${qemuSocket}`), path, {
        via: `unix:${relaySocket}`,
        preempt: "on",
        then: "run",
        prefetch: "off",
        fillBytesPerSecond: 1 << 20,
        signal: cancel.signal,
      });
      await expect(restoring).rejects.toThrow(/the guest waits for its memory until the same command/);
    } finally {
      await client.close();
      await holder.close();
    }
    await expect.poll(async () => (await migrationOf(machine)).status).toBe("postcopy-paused");
    // This process lives, and serves nothing any more.
    await using again = await QmpClient.connect(machine.qmpPath, { oob: "auto" });
    const resumed = await restoreVmLazily(again, path);
    expect(resumed).toMatchObject({ resumed: true, guest: "running" });
    await expectGoesOn(machine, state);
  });
});
