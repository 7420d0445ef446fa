import fs, { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";

import { MachineError, UsageError } from "../../src/errors/index.js";
import { makePrivateSocketPath } from "../../src/session/private-socket.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

describe("makePrivateSocketPath", () => {
  test("a new directory for its owner alone, until it is removed", () => {
    vi.stubEnv("TMPDIR", workDir.path);
    const socket = makePrivateSocketPath(undefined);
    const directory = path.dirname(socket.path);
    expect(path.dirname(directory)).toBe(workDir.path);
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    socket.remove();
    expect(existsSync(directory)).toBe(false);
  });

  test("a TMPDIR whose path is too long is named as the reason", () => {
    const long = workDir.file("x".repeat(100));
    mkdirSync(long);
    vi.stubEnv("TMPDIR", long);
    expect(() => makePrivateSocketPath(undefined)).toThrow(UsageError);
    expect(() => makePrivateSocketPath(undefined)).toThrow(/too long for a Unix socket .*TMPDIR/);
    expect(readdirSync(long)).toEqual([]);
  });

  test("a TMPDIR that is not there", () => {
    vi.stubEnv("TMPDIR", workDir.file("nothing"));
    expect(() => makePrivateSocketPath(undefined)).toThrow(MachineError);
    expect(() => makePrivateSocketPath(undefined)).toThrow(/does not exist/);
  });

  test("a directory that cannot be given to QEMU's user does not stay", () => {
    vi.stubEnv("TMPDIR", workDir.path);
    const qmpPath = workDir.file("qmp");
    writeFileSync(qmpPath, "");
    vi.spyOn(process, "getuid").mockReturnValue(0);
    const theirs = Object.assign(statSync(qmpPath), { uid: 65_534 });
    vi.spyOn(fs, "statSync").mockReturnValue(theirs);
    vi.spyOn(fs, "chownSync").mockImplementation(() => {
      throw Object.assign(new Error("EPERM"), { code: "EPERM" });
    });
    expect(() => makePrivateSocketPath(qmpPath)).toThrow(MachineError);
    expect(readdirSync(workDir.path)).toEqual(["qmp"]);
  });
});
