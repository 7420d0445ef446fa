import { describe, expect, test } from "vitest";

import { UsageError } from "../../src/errors/index.js";
import { parseChardev, parseSocketChardev, splitAtCommas } from "../../src/vm/chardev.js";

describe("a chardev", () => {
  test.each([
    ["null", { kind: "null" }],
    ["none", { kind: "null" }],
    ["stdio", { kind: "stdio" }],
    ["file:/a/b:c", { kind: "file", path: "/a/b:c", append: false }],
    ["file:/a,,b,append=on", { kind: "file", path: "/a,b", append: true }],
    ["unix:/run/x", { kind: "unix", path: "/run/x", wait: false }],
    ["unix:/run/x,server=on,wait=off", { kind: "unix", path: "/run/x", wait: false }],
    ["unix:/run/x,server,nowait", { kind: "unix", path: "/run/x", wait: false }],
    // As in QEMU: who does not say otherwise waits.
    ["unix:/run/x,server=on", { kind: "unix", path: "/run/x", wait: true }],
    ["unix:/run/x,wait=on", { kind: "unix", path: "/run/x", wait: true }],
    ["tcp:127.0.0.1:5,nodelay=on", { kind: "tcp", host: "127.0.0.1", port: 5, wait: false }],
    ["tcp:[::1]:0", { kind: "tcp", host: "::1", port: 0, wait: false }],
    ["tcp::4444", { kind: "tcp", host: "", port: 4444, wait: false }],
  ])("%s", (text, chardev) => {
    expect(parseChardev(text, "-serial")).toEqual(chardev);
  });

  test.each([
    ["", "does not understand"],
    ["unix:", "does not understand"],
    ["pty", "does not understand"],
    ["tcp:host", "does not understand"],
    ["tcp:host:65536", "does not understand"],
    ["unix:/x,server=off", "always listens"],
    ["unix:/x,reconnect=5", 'setting "reconnect=5"'],
    ["unix:/x,wait=maybe", 'setting "wait=maybe"'],
    ["file:/x,server=on", 'setting "server=on"'],
  ])("%s is refused", (text, message) => {
    expect(() => parseChardev(text, "-serial")).toThrow(UsageError);
    expect(() => parseChardev(text, "-serial")).toThrow(message);
  });

  test("of a monitor is a socket", () => {
    expect(parseSocketChardev("unix:/x", "-qmp")).toEqual({ kind: "unix", path: "/x", wait: false });
    expect(() => parseSocketChardev("stdio", "-qmp")).toThrow("-qmp takes a socket");
  });
});

test("a doubled comma is one of the text's", () => {
  expect(splitAtCommas("a,b,,c,,,d")).toEqual(["a", "b,c,", "d"]);
});
