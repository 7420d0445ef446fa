import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";

import { formatMigrationUri, parseFileWithOffset, parseMigrationUri } from "../../src/channels/index.js";
import { UsageError } from "../../src/errors/index.js";

describe("migration URIs", () => {
  test.each([
    ["-", { kind: "stdio" }],
    ["unix:/run/in.sock", { kind: "unix", path: "/run/in.sock" }],
    ["unix:in:colon.sock", { kind: "unix", path: "in:colon.sock" }],
    ["tcp:127.0.0.1:4444", { kind: "tcp", host: "127.0.0.1", port: 4444 }],
    ["tcp::0", { kind: "tcp", host: "", port: 0 }],
    ["tcp:[::1]:65535", { kind: "tcp", host: "::1", port: 65535 }],
    ["fd:7", { kind: "fd", fd: 7 }],
    ["file:/tmp/a b", { kind: "file", path: "/tmp/a b", offset: 0 }],
    ["file:/tmp/a,offset=4096", { kind: "file", path: "/tmp/a", offset: 4096 }],
    ["file:/tmp/a,b", { kind: "file", path: "/tmp/a,b", offset: 0 }],
    ["file:/dev/fdset/3,offset=4096", { kind: "file", path: "/dev/fdset/3", offset: 4096 }],
    ["exec:cat > 'a b'; true", { kind: "exec", args: ["/bin/sh", "-c", "cat > 'a b'; true"] }],
  ])("%s is read, and written back", (text, uri) => {
    const parsed = parseMigrationUri(text);
    expect(parsed).toEqual(uri);
    expect(formatMigrationUri(parsed)).toBe(text);
  });

  test.each([
    ["", /no migration URI/],
    ["in.sock", /no migration URI/],
    ["/run/in.sock", /no migration URI/],
    [":x", /no migration URI/],
    ["unix:", /no migration URI/],
    ["file:", /no migration URI/],
    ["exec:", /no migration URI/],
    ["rdma:host:1", /use unix:PATH/],
    ["fd:name", /no migration URI/],
    ["fd:-1", /no migration URI/],
    ["tcp:host", /tcp:HOST:PORT/],
    ["tcp:host:65536", /tcp:HOST:PORT/],
    ["tcp:host:port", /tcp:HOST:PORT/],
    ["tcp:::1:80", /tcp:HOST:PORT/],
    ["file:a,offset=x", /no usable offset/],
    ["file:,offset=1", /no usable offset/],
    ["file:a,offset=-1", /no usable offset/],
    ["file:a,offset=9007199254740992", /no usable offset/],
    ["file:a,offset=8P", /no usable offset/],
    ["file:a,offset=0x20M", /no usable offset/],
    ["file:a,offset=0x1.8", /no usable offset/],
    ["file:a,offset=1.5", /no usable offset/],
    ["file:a,offset=1.5B", /no usable offset/],
    ["file:a,offset=.", /no usable offset/],
    ["file:a,offset=K", /no usable offset/],
    ["file:a,offset=1e3", /no usable offset/],
    ["file:a,offset=", /no usable offset/],
    ["file:a,offset=1,b", /no usable offset/],
    ["file:a,offset=1,offset=2", /no usable offset/],
  ])("%j is refused", (text, message) => {
    expect(() => parseMigrationUri(text)).toThrow(UsageError);
    expect(() => parseMigrationUri(text)).toThrow(message);
  });
});

test.each([
  ["a,offset=0x1000", 4096],
  ["a,offset=12K", 12_288],
  ["a,offset=1m", 1 << 20],
  ["a,offset=2G", 2 ** 31],
  ["a,offset=3t", 3 * 2 ** 40],
  ["a,offset=7P", 7 * 2 ** 50],
  ["a,offset=12B", 12],
  ["a,offset=0x1b", 27],
  ["a,offset=0XE", 14],
  ["a,offset=010", 10],
  ["a,offset=1.5K", 1536],
  ["a,offset=.5k", 512],
  ["a,offset=2.M", 2 << 20],
  ["a,offset=12.345M", Math.round(12.345 * 2 ** 20)],
  ["a,offset=3.0", 3],
])("offset as QEMU writes it: %s", (text, offset) => {
  expect(parseFileWithOffset(text)).toEqual({ path: "a", offset });
});

describe("what has no URI of its own", () => {
  test("a program with arguments becomes a line for the shell that runs the same", () => {
    const args = ["printf", "%s|", "a b", "it's", "", "$HOME", "--x=1"];
    const line = formatMigrationUri({ kind: "exec", args }).replace(/^exec:/, "");
    expect(spawnSync("/bin/sh", ["-c", line], { encoding: "utf8" }).stdout).toBe("a b|it's||$HOME|--x=1|");
  });

  test("a path that QEMU would take apart is refused", () => {
    const uri = { kind: "file", path: "/a,offset=1", offset: 0 } as const;
    expect(() => formatMigrationUri(uri)).toThrow(UsageError);
    expect(() => formatMigrationUri(uri)).toThrow(/symbolic link/);
  });
});
