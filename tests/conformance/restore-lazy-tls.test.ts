/** `ramport restore --lazy` with TLS, and over a socket of the user's choice. */

import net from "node:net";
import { describe, expect, test } from "vitest";

import { hasOpenssl, makePskFolder, TestCa } from "../support/certificates.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  type GuestState,
  guestMachine,
  guestState,
  migrationOf,
  migrationSettings,
} from "../support/migrating-guest.js";
import { reportMissing } from "../support/missing.js";
import { QEMU_VERSIONS, type QemuMachine, type QemuVersion, startQemu } from "../support/qemu.js";
import { ramport, ramportJson, startRamport } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

async function save(version: QemuVersion): Promise<{ readonly path: string; readonly state: GuestState }> {
  const source = await startQemu(guestMachine(workDir.path, { version }));
  await source.waitForPass(2);
  const path = workDir.file("vm.ram");
  await ramportJson(["save", "--qmp", source.qmpPath, path]);
  const state = guestState(source);
  await source.kill();
  return { path, state };
}

const waiting = (version: QemuVersion): Promise<QemuMachine> =>
  startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));

/** What restores put there. */
async function leftObjects(machine: QemuMachine): Promise<readonly string[]> {
  const list = (await machine.qmp("qom-list", { path: "/objects" })) as { readonly name: string }[];
  return list.map(({ name }) => name).filter((name) => name.startsWith("ramport-"));
}

/** A port that nobody uses. */
async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

if (!hasOpenssl()) {
  reportMissing({ title: "TLS", reason: "there is no openssl to make certificates with" });
} else {
  describe.each(QEMU_VERSIONS)("TLS", (version) => {
    describeWithQemu(version, `restore --lazy, QEMU ${version}`, () => {
      test.runIf(version === "11.1")(
        "certificates, over a private socket, with a server of its own",
        async () => {
          const { path, state } = await save(version);
          const creds = ["--tls-creds-x509", new TestCa(workDir.file("ca")).issue(workDir.file("creds"))];
          const machine = await waiting(version);
          const before = await migrationSettings(machine);
          const args = ["restore", path, "--qmp", machine.qmpPath, "--lazy", "--run", ...creds];
          const log = workDir.file("server.log");
          const { pid } = await ramportJson([...args, "--detach", "--log", log, "--prefetch", "off"]);
          await expect.poll(() => hasEnded(Number(pid)), { timeout: 20_000 }).toBe(true);
          expect(await leftObjects(machine)).toEqual([]);
          expect(await migrationSettings(machine)).toEqual(before);
          await expectGoesOn(machine, state);
        },
      );

      test("a shared key, over TCP: left, and taken up again as it began", async () => {
        const { path, state } = await save(version);
        const machine = await waiting(version);
        const before = await migrationSettings(machine);
        const via = ["--via", `tcp:127.0.0.1:${await freePort()}`];
        const creds = ["--tls-psk", makePskFolder(workDir.file("creds"))];
        const args = ["restore", path, "--qmp", machine.qmpPath, "--lazy", "--run", ...via];
        const run = startRamport([...args, ...creds, "--prefetch", "off", "--rate-limit", "1M"]);
        await run.waitForMessage(/The guest is running after/);
        run.kill("SIGTERM");
        expect((await run.ended).code).toBe(130);
        await expect.poll(async () => (await migrationOf(machine)).status).toBe("postcopy-paused");
        const without = await ramport(args);
        expect(without.code).toBe(2);
        expect(without.stderr).toContain("This restore was begun with TLS");
        expect(await ramportJson([...args, ...creds])).toMatchObject({ resumed: true, guest: "running" });
        expect(await leftObjects(machine)).toEqual([]);
        expect(await migrationSettings(machine)).toEqual(before);
        await expectGoesOn(machine, state);
      });
    });
  });
}

function hasEnded(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch {
    return true;
  }
}
