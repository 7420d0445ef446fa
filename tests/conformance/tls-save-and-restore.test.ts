/** `save` and `restore` that drive a QEMU and travel with TLS: the QEMU gets its credentials for that time only. */

import { mkdirSync, renameSync } from "node:fs";
import net from "node:net";
import { describe, expect, test } from "vitest";

import { hasOpenssl, makePskFolder, SERVER_NAME, TestCa } from "../support/certificates.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  expectRunsOn,
  guestMachine,
  guestState,
  migrationSettings,
} from "../support/migrating-guest.js";
import { reportMissing } from "../support/missing.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { QEMU_VERSIONS, type QemuMachine, type QemuVersion, startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

async function startGuest(version: QemuVersion): Promise<QemuMachine> {
  const machine = await startQemu(guestMachine(workDir.path, { version }));
  await machine.waitForPass(2);
  return machine;
}

/** Names of the objects that a QEMU has been given. */
async function objectsOf(machine: QemuMachine): Promise<readonly string[]> {
  const list = (await machine.qmp("qom-list", { path: "/objects" })) as { name: string; type: string }[];
  return list.filter(({ type }) => type.includes("tls-creds")).map(({ name }) => name);
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
    describeWithQemu(version, `save and restore, QEMU ${version}`, () => {
      test.each([
        ["x509", "a private socket"],
        ["x509", "tcp"],
        ["psk", "a private socket"],
        ["psk", "tcp"],
      ] as const)("%s over %s, live, then back", async (kind, way) => {
        const folder = workDir.file("creds");
        const options =
          kind === "x509"
            ? ["--tls-creds-x509", new TestCa(workDir.file("ca")).issue(folder)]
            : ["--tls-psk", makePskFolder(folder)];
        if (way === "tcp") options.push("--via", `tcp:127.0.0.1:${await freePort()}`);
        const source = await startGuest(version);
        const before = await migrationSettings(source);
        const file = workDir.file("vm.ram");
        const saved = await ramportJson(["save", "--qmp", source.qmpPath, "--live", file, ...options]);
        expect(saved).toMatchObject({ method: "stream" });
        expect(await migrationSettings(source)).toEqual(before);
        expect(await objectsOf(source)).toEqual([]);
        const state = guestState(source);
        await source.kill();

        const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
        const settings = await migrationSettings(destination);
        const restored = await ramportJson(["restore", file, "--qmp", destination.qmpPath, ...options]);
        expect(restored).toMatchObject({ method: "send", guest: "running" });
        expect(await migrationSettings(destination)).toEqual(settings);
        expect(await objectsOf(destination)).toEqual([]);
        await expectGoesOn(destination, state);
      });
    });
  });

  const version = "10.0";
  describeWithQemu(version, "TLS with a QEMU 10.0 that has a mind of its own", () => {
    async function withOwnCredentials(machine: QemuMachine, dir: string): Promise<void> {
      const endpoint = "client";
      await machine.qmp("object-add", { "qom-type": "tls-creds-x509", id: "tls0", endpoint, dir });
      await machine.qmp("migrate-set-parameters", { "tls-creds": "tls0" });
    }

    test("credentials that it is set to stay in use, and are said", async () => {
      const ca = new TestCa(workDir.file("ca"));
      const theirs = ca.issue(workDir.file("theirs"), ["client"]);
      const ours = ca.issue(workDir.file("ours"), ["server"]);
      const source = await startGuest(version);
      await withOwnCredentials(source, theirs);
      const before = await migrationSettings(source);
      const save = ["save", "--qmp", source.qmpPath, "--resume", workDir.file("vm.ram")];
      const result = await ramport([...save, "--tls-creds-x509", ours]);
      expect(result).toMatchObject({ code: 0, stderr: expect.stringContaining("tls0") as string });
      expect(await migrationSettings(source)).toEqual(before);
      expect(await objectsOf(source)).toEqual(["tls0"]);
      await expectRunsOn(source);
    });

    test("set to TLS, it does not migrate without over TCP; over a private socket it is said", async () => {
      const source = await startGuest(version);
      await withOwnCredentials(source, new TestCa(workDir.file("ca")).issue(workDir.file("creds")));
      const before = await migrationSettings(source);
      const save = ["save", "--qmp", source.qmpPath, "--resume", workDir.file("vm.ram")];
      const overTcp = await ramport([...save, "--via", "tcp:127.0.0.1:0"]);
      expect(overTcp).toMatchObject({
        code: 3,
        stderr: expect.stringMatching(/tls-creds is tls0/) as string,
      });
      await expectRunsOn(source);
      const local = await ramport([...save, "--method", "stream"]);
      expect(local).toMatchObject({
        code: 0,
        stderr: expect.stringMatching(/tls0.* are not used/) as string,
      });
      expect(await migrationSettings(source)).toEqual(before);
    });

    test.each([
      ["another name", ["--tls-hostname", "other.example"], /does not match the hostname other\.example/],
      ["a file that is missing", [], /The TLS file .*server-key\.pem is missing/],
      [
        "a certificate that only QEMU uses is too old",
        [],
        /The QEMU cannot use .*client-cert\.pem has expired/,
      ],
    ] as const)("save, %s: the guest runs on, nothing stays behind", async (what, more, expected) => {
      const ca = new TestCa(workDir.file("ca"));
      const folder = ca.issue(workDir.file("creds"));
      if (what === "a file that is missing") renameSync(`${folder}/server-key.pem`, workDir.file("key"));
      if (what.startsWith("a certificate")) ca.issue(folder, ["client"], { expired: true });
      const source = await startGuest(version);
      const before = await migrationSettings(source);
      const save = ["save", "--qmp", source.qmpPath, workDir.file("vm.ram")];
      const result = await ramport([...save, "--tls-creds-x509", folder, ...more]);
      expect(result.stderr).toMatch(expected);
      expect([2, 3]).toContain(result.code);
      expect(await migrationSettings(source)).toEqual(before);
      expect(await objectsOf(source)).toEqual([]);
      await expectRunsOn(source);
    });

    test("restore, the server's certificate has another name: said by ramport", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      mkdirSync(workDir.file("out"));
      const source = await startGuest(version);
      const file = workDir.file("out/vm.ram");
      await ramportJson(["save", "--qmp", source.qmpPath, file]);
      const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
      const options = ["--tls-creds-x509", folder, "--tls-hostname", "other.example"];
      const result = await ramport(["restore", file, "--qmp", destination.qmpPath, ...options]);
      expect(result.code).toBe(3);
      expect(result.stderr).toMatch(/is not for the name other\.example/);
      expect(result.stderr).toContain(SERVER_NAME);
    });
  });
}
