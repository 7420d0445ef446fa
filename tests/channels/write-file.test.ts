import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, onTestFinished, test } from "vitest";

import { ReadableFile } from "../../src/channels/index.js";
import { socketPair } from "../support/socket-pair.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const pair = (): ReturnType<typeof socketPair> => socketPair(workDir.file("s"));

function fileOf(bytes: Uint8Array): ReadableFile {
  fs.writeFileSync(workDir.file("file"), bytes);
  const file = ReadableFile.open(workDir.file("file"));
  onTestFinished(() => file.close());
  return file;
}

const content = Buffer.from(Uint32Array.from({ length: 1 << 20 }, (_, index) => index * 2654435761).buffer);

describe("a part of a file is written to a socket", () => {
  test("between other bytes, whole and in order, to a reader that is slow at first", async () => {
    const { near, far } = await pair();
    expect(near.canWriteFile).toBe(true);
    const file = fileOf(content);
    const head = Buffer.from("in front of it");
    const writing = (async () => {
      for (const position of [0, 12_345, 1 << 20]) {
        await near.write(head);
        await near.writeFile({ file, position, length: (3 << 20) - 77 });
      }
      await near.end();
    })();
    await sleep(50);
    const parts: Buffer[] = [];
    const target = Buffer.alloc(100_000);
    for (let count = await far.read(target); count > 0; count = await far.read(target)) {
      parts.push(Buffer.from(target.subarray(0, count)));
    }
    await writing;
    const expected = [0, 12_345, 1 << 20].flatMap((position) => [
      head,
      content.subarray(position, position + (3 << 20) - 77),
    ]);
    expect(Buffer.concat(parts).equals(Buffer.concat(expected))).toBe(true);
  });

  test("of a file that is shorter than that it fails", async () => {
    const { near, far } = await pair();
    const file = fileOf(content.subarray(0, 5000));
    const failed = expect(near.writeFile({ file, position: 0, length: 5001 })).rejects.toMatchObject({
      code: "io",
    });
    await far.read(Buffer.alloc(10_000));
    await failed;
  });

  test("to a peer that has gone it fails", async () => {
    const { near, far } = await pair();
    const file = fileOf(content);
    const writing = (async () => {
      for (;;) await near.writeFile({ file, position: 0, length: content.length });
    })();
    const failed = expect(writing).rejects.toMatchObject({ code: "connection-closed" });
    await far.read(Buffer.alloc(10));
    await far.close();
    await failed;
  });
});
