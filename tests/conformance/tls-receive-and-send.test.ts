/** TLS on the ways in and out, against real QEMUs: certificates and pre-shared keys, with ramport as server and as client. */

import { readdirSync } from "node:fs";
import net from "node:net";
import { describe, expect, test } from "vitest";

import { SocketListener } from "../../src/channels/index.js";
import { hasOpenssl, makePskFolder, SERVER_NAME, TestCa } from "../support/certificates.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  expectRunsOn,
  type GuestState,
  guestMachine,
  guestState,
  loadWithQemuAlone,
  migrationEnd,
  setCapabilities,
  waitForTransfer,
} from "../support/migrating-guest.js";
import { reportMissing } from "../support/missing.js";
import { ramport, ramportJson, startRamport } from "../support/ramport-cli.js";
import { QEMU_VERSIONS, type QemuMachine, type QemuVersion, startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

type Kind = "x509" | "psk";

/** A folder with the files of both sides. */
function makeCredentials(kind: Kind, name = "creds"): string {
  const folder = workDir.file(name);
  return kind === "psk" ? makePskFolder(folder) : new TestCa(`${folder}-ca`).issue(folder);
}

function tlsOptions(kind: Kind, folder: string): string[] {
  return kind === "psk" ? ["--tls-psk", `${folder}/keys.psk`] : ["--tls-creds-x509", folder];
}

/** Gives a QEMU credentials and lets its migrations use them. */
async function useTls(
  machine: QemuMachine,
  kind: Kind,
  endpoint: "client" | "server",
  dir: string,
): Promise<void> {
  await machine.qmp("object-add", { "qom-type": `tls-creds-${kind}`, id: "tls0", endpoint, dir });
  await machine.qmp("migrate-set-parameters", { "tls-creds": "tls0" });
}

async function startGuest(version: QemuVersion, ...capabilities: readonly string[]): Promise<QemuMachine> {
  const machine = await startQemu(guestMachine(workDir.path, { version }));
  await machine.waitForPass(2);
  if (capabilities.length > 0) await setCapabilities(machine, ...capabilities);
  await machine.qmp("migrate-set-parameters", { "max-bandwidth": 0 });
  return machine;
}

/** A saved guest, as a file that ramport wrote. */
async function saved(version: QemuVersion): Promise<{ readonly file: string; readonly state: GuestState }> {
  const source = await startGuest(version);
  const file = workDir.file("vm.ram");
  await ramportJson(["save", "--qmp", source.qmpPath, "--live", file]);
  const state = guestState(source);
  await source.kill();
  return { file, state };
}

async function expectLoads(version: QemuVersion, file: string, state: GuestState): Promise<void> {
  const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
  if (version === "7.2") await ramportJson(["restore", file, "--qmp", destination.qmpPath]);
  else await loadWithQemuAlone(destination, file);
  await expectGoesOn(destination, state);
}

if (!hasOpenssl()) {
  reportMissing({ title: "TLS", reason: "there is no openssl to make certificates with" });
} else {
  describe.each(QEMU_VERSIONS)("TLS", (version) => {
    describeWithQemu(version, `receive and send, QEMU ${version}`, () => {
      test.each([
        ["x509", "tcp:127.0.0.1:0", ["return-path"]],
        ["x509", "tcp:127.0.0.1:0", []],
        ["x509", "unix:", ["return-path"]],
        ["psk", "tcp:127.0.0.1:0", ["return-path"]],
        ["psk", "unix:", []],
      ] as const)("receive, %s over %s, capabilities %j", async (kind, address, capabilities) => {
        const credentials = makeCredentials(kind);
        const source = await startGuest(version, ...capabilities);
        await useTls(source, kind, "client", credentials);
        const file = workDir.file("vm.ram");
        const uri = address === "unix:" ? `unix:${workDir.file("in")}` : address;
        if (kind === "x509" && address === "unix:") {
          await source.qmp("migrate-set-parameters", { "tls-hostname": SERVER_NAME });
        }
        const run = startRamport(["receive", uri, file, "--json", ...tlsOptions(kind, credentials)]);
        const [, listening] = await run.waitForMessage(/^Waiting for a migration to (.*)$/m);
        await source.qmp("migrate", { uri: listening });
        const result = await run.ended;
        expect(result.code, result.stderr).toBe(0);
        expect(await migrationEnd(source)).toBe("completed");
        const state = guestState(source);
        await source.kill();
        await expectLoads(version, file, state);
      });

      test("receive, psk over fd:N of an inherited socket", async () => {
        const credentials = makeCredentials("psk");
        const source = await startGuest(version, "return-path");
        await useTls(source, "psk", "client", credentials);
        const file = workDir.file("vm.ram");
        const options = tlsOptions("psk", credentials);
        const run = startRamport(["receive", "fd:3", file, ...options], { inherit: ["pipe"] });
        const inherited = run.process.stdio[3] as net.Socket;
        inherited.on("error", () => undefined);
        const server = net.createServer((connection) => {
          connection.on("error", () => undefined);
          connection.pipe(inherited).pipe(connection);
        });
        await new Promise<void>((resolve) => server.listen(workDir.file("in"), resolve));
        await source.qmp("migrate", { uri: `unix:${workDir.file("in")}` });
        const result = await run.ended;
        server.close();
        expect(result.code, result.stderr).toBe(0);
        expect(await migrationEnd(source)).toBe("completed");
        const state = guestState(source);
        await source.kill();
        await expectLoads(version, file, state);
      });

      test("a source without return path closes at once: what is still on its way arrives", async () => {
        const credentials = makeCredentials("x509");
        const source = await startQemu({ ...guestMachine(workDir.path, { version }), paused: true });
        await useTls(source, "x509", "client", credentials);
        const address = { host: "127.0.0.1", port: 0 };
        const tls = { kind: "x509", folder: credentials } as const;
        const listener = await SocketListener.listen(address, "the source", tls);
        await source.qmp("migrate", { uri: `tcp:127.0.0.1:${listener.port}` });
        const channel = await listener.accept();
        // Nobody has read by now: the stream is in the kernel's buffers, and QEMU has closed the connection.
        expect(await migrationEnd(source)).toBe("completed");
        const answer = (await source.qmp("query-migrate")) as { ram: { transferred: number } };
        const buffer = new Uint8Array(1 << 20);
        let bytes = 0;
        for (let count; (count = await channel.read(buffer)) > 0;) bytes += count;
        // Newer versions count the device sections, too.
        expect(bytes).toBeGreaterThanOrEqual(answer.ram.transferred);
        await channel.close();
        await listener.close();
      });

      test("receive, Ctrl-C in the middle: the guest runs on, no file is left", async () => {
        const credentials = makeCredentials("x509");
        const source = await startGuest(version, "return-path");
        await useTls(source, "x509", "client", credentials);
        await source.qmp("migrate-set-parameters", { "max-bandwidth": 3 << 20 });
        const options = tlsOptions("x509", credentials);
        const run = startRamport(["receive", "tcp:127.0.0.1:0", workDir.file("vm.ram"), ...options]);
        const [, uri] = await run.waitForMessage(/^Waiting for a migration to (.*)$/m);
        await source.qmp("migrate", { uri });
        await waitForTransfer(source, 2 << 20, run);
        run.kill("SIGINT");
        expect((await run.ended).code).toBe(130);
        expect(await migrationEnd(source)).toBe("failed");
        await expectRunsOn(source);
        expect(readdirSync(workDir.path).filter((name) => name.includes("vm.ram"))).toEqual([]);
      });

      test.each([
        ["x509", "tcp:"],
        ["x509", "unix:"],
        ["psk", "tcp:"],
        ["psk", "unix:"],
      ] as const)("send, %s over %s", async (kind, address) => {
        const { file, state } = await saved(version);
        const credentials = makeCredentials(kind);
        const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
        await useTls(destination, kind, "server", credentials);
        const socket = workDir.file("in");
        await destination.qmp("migrate-incoming", {
          uri: address === "unix:" ? `unix:${socket}` : "tcp:127.0.0.1:0",
        });
        const info = (await destination.qmp("query-migrate")) as {
          "socket-address"?: { port: string }[];
        };
        const uri =
          address === "unix:" ? `unix:${socket}` : `tcp:127.0.0.1:${info["socket-address"]?.[0]?.port}`;
        const hostname = kind === "x509" && address === "unix:" ? ["--tls-hostname", SERVER_NAME] : [];
        const sent = await ramportJson(["send", file, uri, ...tlsOptions(kind, credentials), ...hostname]);
        expect(sent).toMatchObject({ confirmed: true });
        await expectGoesOn(destination, state);
      });
    });
  });

  const version = "10.0";
  describeWithQemu(version, "TLS that comes to nothing: said at once, and the guest runs on", () => {
    /** Lets a source migrate to a `receive`, which must fail. */
    async function refused(source: QemuMachine, options: readonly string[]): Promise<string> {
      const run = startRamport(["receive", "tcp:127.0.0.1:0", workDir.file("vm.ram"), ...options]);
      const [, uri] = await run.waitForMessage(/^Waiting for a migration to (.*)$/m);
      await source.qmp("migrate", { uri });
      const result = await run.ended;
      expect([1, 3]).toContain(result.code);
      expect(await migrationEnd(source)).toBe("failed");
      await expectRunsOn(source);
      return result.stderr.split("\n").at(-2) ?? "";
    }

    test.each([
      ["QEMU has no TLS", undefined, "x509", /does not speak TLS; set its tls-creds/],
      ["ramport has no TLS", "x509", undefined, /The source uses TLS.*--tls-creds-x509/],
      ["certificates against a key", "x509", "psk", /share no way to do TLS/],
      ["a key against certificates", "psk", "x509", /share no way to do TLS/],
      ["different keys", "psk", "other psk", /different keys/],
      // QEMU has no certificate of the CA that ramport names, and so shows none.
      ["ramport has another CA", "x509", "other x509", /showed no certificate.*of the same CA/],
    ] as const)("receive: %s", async (_what, theirs, ours, expected) => {
      const source = await startGuest(version);
      const folders = { x509: makeCredentials("x509", "a"), psk: makeCredentials("psk", "b") };
      if (theirs !== undefined) await useTls(source, theirs, "client", folders[theirs]);
      const options =
        ours === undefined
          ? []
          : ours === "other psk"
            ? tlsOptions("psk", makeCredentials("psk", "c"))
            : ours === "other x509"
              ? tlsOptions("x509", makeCredentials("x509", "c"))
              : tlsOptions(ours, folders[ours]);
      expect(await refused(source, options)).toMatch(expected);
    });

    test("receive: the source has no certificate of its own", async () => {
      const source = await startGuest(version);
      const ca = new TestCa(workDir.file("ca"));
      await useTls(source, "x509", "client", ca.issue(workDir.file("theirs"), []));
      const ours = ca.issue(workDir.file("ours"));
      expect(await refused(source, tlsOptions("x509", ours))).toMatch(/showed no certificate/);
    });

    test.each([
      ["QEMU has no TLS", undefined, "x509", /closed the connection during the TLS handshake/],
      ["ramport has no TLS", "x509", undefined, /closed .*; its own error says why/],
      ["different keys", "psk", "other psk", /closed the connection during the TLS handshake/],
      ["another CA", "x509", "other x509", /is not signed by the CA of/],
    ] as const)("send: %s", async (_what, theirs, ours, expected) => {
      const { file } = await saved(version);
      const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
      const folders = { x509: makeCredentials("x509", "a"), psk: makeCredentials("psk", "b") };
      if (theirs !== undefined) await useTls(destination, theirs, "server", folders[theirs]);
      await destination.qmp("migrate-incoming", { uri: "tcp:127.0.0.1:0" });
      const info = (await destination.qmp("query-migrate")) as { "socket-address": { port: string }[] };
      const uri = `tcp:127.0.0.1:${info["socket-address"][0]?.port}`;
      const options =
        ours === undefined
          ? []
          : ours === "other psk"
            ? tlsOptions("psk", makeCredentials("psk", "c"))
            : ours === "other x509"
              ? tlsOptions("x509", makeCredentials("x509", "c"))
              : tlsOptions(ours, folders[ours]);
      const result = await ramport(["send", file, uri, ...options]);
      expect(result.code, result.stderr).toBe(3);
      expect(result.stderr).toMatch(expected);
    });
  });
}
