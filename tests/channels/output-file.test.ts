import { spawnSync } from "node:child_process";
import fs, {
  chmodSync,
  chownSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test, vi } from "vitest";

import { OutputFile } from "../../src/channels/index.js";
import { CancelledError, MachineError, UsageError } from "../../src/errors/index.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

function write(output: OutputFile, text: string, position = 0): void {
  const bytes = Buffer.from(text);
  output.writeAt(bytes, 0, bytes.length, position);
}

describe("OutputFile", () => {
  test("has its name only after the commit, and is for its owner alone", async () => {
    const target = workDir.file("out");
    const output = OutputFile.create(target);
    write(output, "content");
    expect(readdirSync(workDir.path)).toEqual([path.basename(output.temporaryPath)]);
    expect(output.temporaryPath).toMatch(/\/\.out\.[0-9a-f]{8}\.part$/);
    await output.commit();
    expect(readdirSync(workDir.path)).toEqual(["out"]);
    expect(readFileSync(target, "utf8")).toBe("content");
    expect(statSync(target).mode & 0o777).toBe(0o600);
    output.discard();
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });

  test("discarded, nothing is left; a second time does nothing", () => {
    const output = OutputFile.create(workDir.file("out"));
    write(output, "content");
    output.discard();
    output.discard();
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test("taken back, it is gone", async () => {
    const output = OutputFile.create(workDir.file("out"));
    await output.publish();
    expect(readdirSync(workDir.path)).toEqual(["out"]);
    output.takeBack();
    output.discard();
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test("a commit that is cancelled gives it no name", async () => {
    const output = OutputFile.create(workDir.file("out"));
    write(output, "content");
    await expect(output.commit(AbortSignal.abort())).rejects.toBeInstanceOf(CancelledError);
    expect(readdirSync(workDir.path)).toEqual([path.basename(output.temporaryPath)]);
    output.discard();
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test("an existing file is kept, or replaced as a whole at the end", async () => {
    const target = workDir.file("out");
    writeFileSync(target, "old");
    expect(() => OutputFile.create(target)).toThrow(UsageError);
    expect(() => OutputFile.create(target)).toThrow(/--force/);
    const output = OutputFile.create(target, { replace: true });
    write(output, "new");
    expect(readFileSync(target, "utf8")).toBe("old");
    await output.commit();
    expect(readFileSync(target, "utf8")).toBe("new");
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });

  test("what is no file is not replaced", () => {
    const folder = workDir.file("folder");
    mkdirSync(folder);
    expect(() => OutputFile.create(folder, { replace: true })).toThrow(UsageError);
    symlinkSync("/dev/null", workDir.file("device"));
    expect(() => OutputFile.create(workDir.file("device"), { replace: true })).toThrow(UsageError);
  });

  test("a folder that is not there", () => {
    expect(() => OutputFile.create(workDir.file("no/out"))).toThrow(MachineError);
    writeFileSync(workDir.file("file"), "");
    expect(() => OutputFile.create(workDir.file("file/out"))).toThrow(MachineError);
  });

  test("a reserved name is taken over when somebody else wrote it", async () => {
    const output = OutputFile.reserve(workDir.file("out"));
    expect(readdirSync(workDir.path)).toEqual([]);
    expect(() => output.adopt()).toThrow(MachineError);
    writeFileSync(output.temporaryPath, "theirs");
    output.adopt();
    write(output, "T");
    await output.commit();
    expect(readFileSync(workDir.file("out"), "utf8")).toBe("Theirs");
  });

  test("reads back, and zeroes ranges, with holes where the file system has them", () => {
    const output = OutputFile.create(workDir.file("out"));
    const bytes = Buffer.alloc(64 * 4096, 0xab);
    output.writeAt(bytes, 0, bytes.length, 0);
    const before = output.allocatedBytes;
    output.zeroAt(4096, 32 * 4096);
    const back = Buffer.alloc(bytes.length);
    expect(output.readAt(back, 0)).toBe(bytes.length);
    expect(back.equals(bytes.fill(0, 4096, 33 * 4096))).toBe(true);
    expect(output.sizeBytes).toBe(64 * 4096);
    expect(output.allocatedBytes).toBeLessThanOrEqual(before);
    output.zeroAt(4097, 10);
    write(output, "behind", 1 << 20);
    expect(output.sizeBytes).toBe((1 << 20) + 6);
    output.discard();
  });

  test("a process that dies in the middle leaves the temporary name alone, and the old file", () => {
    const target = workDir.file("out");
    writeFileSync(target, "old");
    const module = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../dist/channels/index.js");
    const script = `
      const { OutputFile } = await import(${JSON.stringify(module)});
      const output = OutputFile.create(${JSON.stringify(target)}, { replace: true });
      output.writeAt(Buffer.from("half"), 0, 4, 0);
      process.kill(process.pid, "SIGKILL");
    `;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", script]);
    expect(child.signal).toBe("SIGKILL");
    expect(readFileSync(target, "utf8")).toBe("old");
    const others = readdirSync(workDir.path).filter((name) => name !== "out");
    expect(others).toEqual([expect.stringMatching(/^\.out\.[0-9a-f]{8}\.part$/)]);
  });
});

/** Makes a system call fail with a code, each time. */
function failing(name: "linkSync" | "renameSync", code: string): void {
  vi.spyOn(fs, name).mockImplementation(() => {
    throw Object.assign(new Error(code), { code });
  });
}

/** Makes syncing fail with a code from the second time on: the first is the file's, the next its directory's. */
function failingDirectorySync(code: string): void {
  const real = fs.fsync.bind(fs);
  let calls = 0;
  vi.spyOn(fs, "fsync").mockImplementation((fd, callback) => {
    if (calls++ === 0) real(fd, callback);
    else callback(Object.assign(new Error(code), { code }));
  });
}

describe("OutputFile in the place of another file", () => {
  afterEach(() => void vi.restoreAllMocks());

  function written(replace: boolean): OutputFile {
    const output = OutputFile.create(workDir.file("out"), { replace });
    write(output, "new");
    return output;
  }

  function content(): string {
    return readFileSync(workDir.file("out"), "utf8");
  }

  test.each(["with hard links", "without"])(
    "taken back, the old one has its name again (%s)",
    async (links) => {
      writeFileSync(workDir.file("out"), "old");
      if (links === "without") failing("linkSync", "EPERM");
      const output = written(true);
      await output.publish();
      expect(content()).toBe("new");
      output.takeBack();
      expect(content()).toBe("old");
      expect(readdirSync(workDir.path)).toEqual(["out"]);
    },
  );

  test.each(["with hard links", "without"])("settled, the old one is gone (%s)", async (links) => {
    writeFileSync(workDir.file("out"), "old");
    if (links === "without") failing("linkSync", "ENOTSUP");
    const output = written(true);
    await output.publish();
    output.settle();
    output.discard();
    expect(content()).toBe("new");
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });

  test("discarded when it was published and not settled, it is taken back", async () => {
    writeFileSync(workDir.file("out"), "old");
    const output = written(true);
    await output.publish();
    output.discard();
    expect(content()).toBe("old");
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });

  test("a rename that fails leaves the old one alone", async () => {
    writeFileSync(workDir.file("out"), "old");
    const output = written(true);
    failing("renameSync", "EIO");
    await expect(output.commit()).rejects.toMatchObject({ name: "MachineError", code: "io" });
    output.discard();
    expect(content()).toBe("old");
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });

  test.each(["with hard links", "without"])("one that came meanwhile is not replaced (%s)", async (links) => {
    const output = written(false);
    writeFileSync(workDir.file("out"), "somebody else's");
    if (links === "without") failing("linkSync", "EPERM");
    await expect(output.commit()).rejects.toBeInstanceOf(UsageError);
    output.discard();
    expect(content()).toBe("somebody else's");
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });

  test("nothing in its way, and no hard links", async () => {
    failing("linkSync", "EPERM");
    const output = written(false);
    await output.commit();
    expect(content()).toBe("new");
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });
});

describe("OutputFile and its directory", () => {
  afterEach(() => void vi.restoreAllMocks());

  test("one that cannot be synced is no failure", async () => {
    failingDirectorySync("EINVAL");
    const output = OutputFile.create(workDir.file("out"));
    await output.commit();
    expect(readdirSync(workDir.path)).toEqual(["out"]);
  });

  test.each([false, true])("when syncing it fails, nothing is left (replace: %s)", async (replace) => {
    if (replace) writeFileSync(workDir.file("out"), "old");
    failingDirectorySync("EIO");
    const output = OutputFile.create(workDir.file("out"), { replace });
    await expect(output.commit()).rejects.toMatchObject({ name: "MachineError", code: "io" });
    output.discard();
    expect(readdirSync(workDir.path)).toEqual(replace ? ["out"] : []);
    if (replace) expect(readFileSync(workDir.file("out"), "utf8")).toBe("old");
  });

  test("one that may be written and not read", async () => {
    const folder = workDir.file("drop");
    mkdirSync(folder);
    // Root may read everything.
    const isRoot = process.geteuid?.() === 0;
    if (isRoot) {
      chownSync(folder, 65_534, 65_534);
      chmodSync(workDir.path, 0o711);
    }
    chmodSync(folder, 0o333);
    if (isRoot) process.seteuid?.(65_534);
    try {
      const output = OutputFile.create(path.join(folder, "out"));
      await output.commit();
      output.discard();
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
    chmodSync(folder, 0o700);
    expect(readdirSync(folder)).toEqual(["out"]);
  });
});
