/** Files that must not reach a QEMU: some QEMUs load them without a word, some crash. */
import { existsSync, writeFileSync } from "node:fs";

import { expect, test } from "vitest";

import { openMappedRam } from "../../src/engine/index.js";
import { sendSnapshot } from "../../src/session/index.js";
import { buildSnapshot, MemorySource } from "../snapshot/build-snapshot.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

function firstBlock(bytes: Uint8Array): { bitmapOffset: number; pagesOffset: number; pages: number } {
  const [block] = openMappedRam(new MemorySource(bytes)).blocks;
  if (block?.mapped === undefined) throw new Error("the built snapshot has no block");
  return { ...block.mapped, pages: block.usedLength / block.mapped.pageSize };
}

/** Sends to a socket that nobody listens at: a file that passes the checks fails with that. */
function send(bytes: Uint8Array): Promise<unknown> {
  const file = workDir.file("vm.ram");
  writeFileSync(file, bytes);
  return sendSnapshot(file, { kind: "unix", path: workDir.file("nobody") });
}

test("a good file is only stopped by the socket", async () => {
  await expect(send(buildSnapshot().bytes)).rejects.toMatchObject({ code: "io" });
});

test("a bitmap that lies in its own pages", async () => {
  const { bytes } = buildSnapshot();
  const { bitmapOffset, pagesOffset } = firstBlock(bytes);
  // bitmap_offset is the header's last field but one, and the bitmap follows the header.
  new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(bitmapOffset - 16, BigInt(pagesOffset));
  await expect(send(bytes)).rejects.toMatchObject({ code: "inconsistent" });
});

test("bits behind the last page", async () => {
  const { bytes } = buildSnapshot();
  const { bitmapOffset, pages } = firstBlock(bytes);
  expect(pages % 64).not.toBe(0);
  const last = bitmapOffset + Math.ceil(pages / 64) * 8 - 1;
  bytes[last] = (bytes[last] ?? 0) | 0x80;
  await expect(send(bytes)).rejects.toMatchObject({ code: "inconsistent" });
});

test("not into a file, and none is made", async () => {
  const out = workDir.file("out");
  const file = workDir.file("vm.ram");
  writeFileSync(file, buildSnapshot().bytes);
  const sending = sendSnapshot(file, { kind: "file", path: out, offset: 0 });
  await expect(sending).rejects.toMatchObject({ name: "UsageError" });
  await expect(sending).rejects.toThrow(/not into a file/);
  expect(existsSync(out)).toBe(false);
});
