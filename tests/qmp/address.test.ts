import { writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { MachineError, UsageError } from "../../src/errors/index.js";
import { formatQmpAddress, parseQmpAddress, QmpClient, type QmpAddress } from "../../src/qmp/index.js";
import { FakeMonitor } from "./fake-monitor.js";

test.each<[string, QmpAddress]>([
  ["unix:/run/q.sock", { path: "/run/q.sock" }],
  ["unix:q.sock", { path: "q.sock" }],
  ["/run/q:1.sock", { path: "/run/q:1.sock" }],
  ["./q", { path: "./q" }],
  ["tcp:vm.test:4444", { host: "vm.test", port: 4444 }],
  ["127.0.0.1:1", { host: "127.0.0.1", port: 1 }],
  ["tcp::4444", { host: "localhost", port: 4444 }],
  ["tcp:[::1]:65535", { host: "::1", port: 65535 }],
])("%s is read", (text, address) => {
  expect(parseQmpAddress(text)).toEqual(address);
  expect(parseQmpAddress(formatQmpAddress(address))).toEqual(address);
});

test.each([
  "",
  "unix:",
  "q.sock",
  "tcp:host",
  "host:0",
  "host:65536",
  "host:x",
  "::1:44",
  "/q,server=on,wait=off",
])("%j is refused", (text) => {
  expect(() => parseQmpAddress(text)).toThrow(UsageError);
});

test("a missing socket, a file that is none, and a path too long are told apart", async () => {
  const monitor = await FakeMonitor.raw(() => undefined);
  const missing = await QmpClient.connect(`${monitor.path}.not`).catch((e: unknown) => e);
  expect(missing).toBeInstanceOf(MachineError);
  expect(missing).toMatchObject({ code: "io", cause: { code: "ENOENT" } });
  expect(String(missing)).toMatch(/no socket at unix:.*is QEMU running/);

  const plain = `${monitor.path}.txt`;
  await writeFile(plain, "");
  await expect(QmpClient.connect(plain)).rejects.toThrow(/Nothing listens on unix:.*its QEMU is gone/);

  await expect(QmpClient.connect(`/${"x".repeat(107)}`)).rejects.toThrow(UsageError);
  await monitor.stop();
});

test("a closed TCP port is refused with its address", async () => {
  await expect(QmpClient.connect({ host: "127.0.0.1", port: 1 })).rejects.toThrow(
    /Nothing listens on tcp:127\.0\.0\.1:1/,
  );
});
