import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { afterEach, describe, expect, test, vi } from "vitest";

import { SequentialFile } from "../../src/channels/index.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const CLOSED = { name: "MachineError", code: "connection-closed" };

afterEach(() => void vi.restoreAllMocks());

describe("SequentialFile", () => {
  test("standard input and output: closed, they can be used no more", async () => {
    for (const fd of [0, 1]) {
      const channel = new SequentialFile("standard", fd, undefined);
      await channel.close();
      await channel.close();
      await expect(channel.read(new Uint8Array(1))).rejects.toMatchObject(CLOSED);
      await expect(channel.write(Uint8Array.of(65))).rejects.toMatchObject(CLOSED);
    }
  });

  test("closed while it reads or writes, that fails, and the descriptor is given back afterwards", async () => {
    const file = workDir.file("f");
    writeFileSync(file, "0123456789");
    const reader = new SequentialFile(file, openSync(file, "r"), 0);
    const reading = expect(reader.read(new Uint8Array(4))).rejects.toMatchObject(CLOSED);
    await reader.close();
    await reading;
    const writer = new SequentialFile(file, openSync(file, "r+"), 0);
    const writing = expect(writer.write(new Uint8Array(1 << 20))).rejects.toMatchObject(CLOSED);
    await writer.close();
    await writing;
  });

  test("front to back", async () => {
    const file = workDir.file("f");
    writeFileSync(file, "");
    const writer = new SequentialFile(file, openSync(file, "r+"), 0);
    await writer.write(Buffer.from("one "));
    await writer.write(Buffer.from("two"));
    await writer.end();
    await writer.close();
    expect(readFileSync(file, "utf8")).toBe("one two");
    const reader = new SequentialFile(file, openSync(file, "r"), 4);
    const target = Buffer.alloc(10);
    expect(await reader.read(target)).toBe(3);
    expect(target.toString("utf8", 0, 3)).toBe("two");
    expect(await reader.read(target)).toBe(0);
    await reader.close();
  });

  test("synced at its end where that is asked for; one that cannot be says so", async () => {
    const device = new SequentialFile("device", openSync("/dev/null", "w"), undefined, { syncAtEnd: true });
    await expect(device.end()).rejects.toMatchObject({ name: "MachineError", code: "io" });
    await device.close();
    const other = new SequentialFile("device", openSync("/dev/null", "w"), undefined);
    await other.end();
    await other.close();
    await expect(other.sync()).rejects.toMatchObject(CLOSED);
  });

  test("somebody else's descriptor stays open", async () => {
    const fd = openSync("/dev/null", "r+");
    const channel = new SequentialFile("device", fd, undefined, { keepOpen: true });
    await channel.close();
    await expect(channel.read(new Uint8Array(1))).rejects.toMatchObject(CLOSED);
    closeSync(fd);
  });
});
