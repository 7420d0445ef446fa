import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { describe, expect, test } from "vitest";

import { loadTlsCredentials, nameOfServerCertificate } from "../../src/channels/index.js";
import { hasOpenssl, SERVER_NAME, TestCa } from "../support/certificates.js";
import { reportMissing } from "../support/missing.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

const psk = (file: string, username?: string) =>
  ({ kind: "psk", file, ...(username === undefined ? {} : { username }) }) as const;

describe("pre-shared keys", () => {
  function keys(...lines: readonly string[]): string {
    writeFileSync(workDir.file("keys.psk"), lines.join("\n"));
    return workDir.file("keys.psk");
  }

  test("a file, or its folder; several users, a name in hexadecimal", () => {
    const file = keys("qemu:00ff", "ann:0102", "#626f62:aa", "");
    const loaded = loadTlsCredentials(psk(file), "server");
    expect(loaded).toEqual({
      kind: "psk",
      keys: new Map([
        ["qemu", Buffer.from([0, 255])],
        ["ann", Buffer.from([1, 2])],
        ["bob", Buffer.from([0xaa])],
      ]),
    });
    expect(loadTlsCredentials(psk(workDir.path), "server")).toEqual(loaded);
  });

  test("a client needs its user's key, a server any", () => {
    const file = keys("ann:0102");
    expect(() => loadTlsCredentials(psk(file), "client")).toThrow(/has no key for the user qemu$/);
    expect(loadTlsCredentials(psk(file, "ann"), "client")).toMatchObject({ kind: "psk" });
    expect(loadTlsCredentials(psk(file), "server")).toMatchObject({ kind: "psk" });
    expect(() => loadTlsCredentials(psk(keys()), "server")).toThrow(/holds no key$/);
  });

  test.each(["qemu", "qemu:", "qemu:abc", "qemu:xyz0", ":00", `qemu:${"00".repeat(300)}`, "#zz:00"])(
    "no line with a key: %s",
    (line) => {
      const file = keys("ann:00", line);
      expect(() => loadTlsCredentials(psk(file), "server")).toThrow(
        /^Line 2 of .*keys\.psk is not of the form/,
      );
    },
  );

  test("a file that is not there, and a folder without one", () => {
    expect(() => loadTlsCredentials(psk(workDir.file("no")), "client")).toThrow(
      /The TLS file .*no is missing/,
    );
    expect(() => loadTlsCredentials(psk(workDir.path), "client")).toThrow(/keys\.psk is missing/);
  });
});

if (!hasOpenssl()) {
  reportMissing({ title: "certificates", reason: "there is no openssl to make certificates with" });
} else {
  describe("certificates", () => {
    const x509 = (folder: string) => ({ kind: "x509", folder }) as const;
    const issue = (...args: Parameters<TestCa["issue"]> extends [string, ...infer R] ? R : never): string =>
      new TestCa(workDir.file("ca")).issue(workDir.file("creds"), ...args);

    test("each side reads its own files", () => {
      const folder = issue();
      expect(loadTlsCredentials(x509(folder), "server")).toMatchObject({
        own: { cert: expect.any(String) as string },
      });
      for (const side of ["server", "client"] as const) {
        rmSync(`${folder}/${side}-key.pem`);
        const missing = new RegExp(`The TLS file .*${side}-key\\.pem is missing`);
        expect(() => loadTlsCredentials(x509(folder), side)).toThrow(missing);
      }
      rmSync(`${folder}/client-cert.pem`);
      expect(loadTlsCredentials(x509(folder), "client")).not.toHaveProperty("own");
      rmSync(`${folder}/ca-cert.pem`);
      expect(() => loadTlsCredentials(x509(folder), "client")).toThrow(/ca-cert\.pem is missing; it holds/);
    });

    test("a folder that is not there, or is none", () => {
      expect(() => loadTlsCredentials(x509(workDir.file("no")), "client")).toThrow(/does not exist: .*no$/);
      writeFileSync(workDir.file("file"), "");
      expect(() => loadTlsCredentials(x509(workDir.file("file")), "client")).toThrow(/is no folder/);
    });

    test("the key of another certificate, an encrypted one, and none at all", () => {
      const folder = issue();
      copyFileSync(`${folder}/server-key.pem`, workDir.file("key"));
      copyFileSync(`${folder}/client-key.pem`, `${folder}/server-key.pem`);
      expect(() => loadTlsCredentials(x509(folder), "server")).toThrow(/is not the key of the certificate/);
      const encrypt = ["pkey", "-in", workDir.file("key"), "-aes256", "-passout", "pass:secret"];
      execFileSync("openssl", [...encrypt, "-out", `${folder}/server-key.pem`]);
      expect(() => loadTlsCredentials(x509(folder), "server")).toThrow(
        /server-key\.pem is encrypted.* openssl pkey/,
      );
      writeFileSync(`${folder}/server-key.pem`, "junk");
      expect(() => loadTlsCredentials(x509(folder), "server")).toThrow(
        /server-key\.pem holds no private key/,
      );
      writeFileSync(
        `${folder}/ca-cert.pem`,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
      );
      expect(() => loadTlsCredentials(x509(folder), "client")).toThrow(/ca-cert\.pem holds no certificate/);
    });

    test("one that has expired", () => {
      const folder = issue(["server", "client"], { expired: true });
      for (const side of ["server", "client"] as const) {
        const expired = new RegExp(`The certificate in .*${side}-cert\\.pem has expired`);
        expect(() => loadTlsCredentials(x509(folder), side)).toThrow(expired);
      }
    });

    test.skipIf(process.getuid?.() === 0)("a file that may not be read", () => {
      const folder = issue();
      chmodSync(`${folder}/server-key.pem`, 0);
      expect(() => loadTlsCredentials(x509(folder), "server")).toThrow(/server-key\.pem may not be accessed/);
    });

    test("the name that a client can look for", () => {
      const ca = new TestCa(workDir.file("ca"));
      const named = (names?: string): string | undefined =>
        nameOfServerCertificate(
          x509(ca.issue(workDir.file("creds"), ["server"], names === undefined ? {} : { names })),
        );
      expect(named()).toBe(SERVER_NAME);
      expect(named("IP:10.0.0.1")).toBe("10.0.0.1");
      expect(named("DNS:*.example,DNS:b.example")).toBe("b.example");
      expect(named("email:x@example")).toBe(SERVER_NAME);
      rmSync(workDir.file("creds/server-cert.pem"));
      expect(nameOfServerCertificate(x509(workDir.file("creds")))).toBeUndefined();
    });
  });
}
