/** Every good file of the corpus, whatever its container: facts and memory are those of the stopped guest. */
import { createHash } from "node:crypto";

import { expect, test } from "vitest";

import type { Snapshot, SnapshotBlock } from "../../src/snapshot/index.js";
import { openSnapshot, snapshotInfo, verifySnapshot } from "../../src/snapshot/index.js";
import { corpus, corpusPath, describeWithCorpus } from "../support/corpus.js";

/** What verify has to say about good files, and why. */
const EXPECTED_WARNINGS: Readonly<Record<string, readonly string[]>> = {
  // A machine without any content looks like a file whose writer died.
  "q100-mr-none": ["all-bitmaps-empty"],
  // QEMU's own live file.
  "q100-mr-pc-dirty": ["stale-pages"],
  // QEMU saves two IDE controllers of this machine under one name.
  "q72-isapc": ["duplicate-section"],
};

function sha256Of(snapshot: Snapshot, block: SnapshotBlock): string {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(256 * block.pageSize);
  for (let page = 0; page < block.pageCount; page += 256) {
    const part = buffer.subarray(0, Math.min(256, block.pageCount - page) * block.pageSize);
    snapshot.readPages(block, page, part);
    hash.update(part);
  }
  return hash.digest("hex");
}

describeWithCorpus("every file that QEMU and libvirt wrote", () => {
  // libvirt's images start at their own header, the others where the stream does.
  const files = (corpus?.files ?? []).map((facts) => ({
    ...facts,
    offset: facts.container === "libvirt" ? 0 : facts.streamOffset,
  }));

  test.each(files)("$name: facts and memory", async (facts) => {
    const snapshot = await openSnapshot(corpusPath(facts), { offset: facts.offset });
    try {
      expect(snapshot).toMatchObject({
        container: facts.container,
        format: facts.format,
        streamOffset: facts.streamOffset,
        fileBytes: facts.bytes,
        targetPageSize: facts.targetPageSize,
        configuration: { machine: facts.machine, capabilities: facts.capabilities },
      });
      expect(snapshot.blocks.map(({ name, usedLength }) => [name, usedLength])).toEqual(
        facts.blocks.map(({ name, usedLength }) => [name, usedLength]),
      );
      for (const [index, block] of snapshot.blocks.entries()) {
        const expected = facts.blocks[index];
        // Shared memory that the source left out is not in the file, so nobody can have its hash from it.
        if (!block.leftOut) expect(sha256Of(snapshot, block), block.name).toBe(expected?.sha256);
        else expect(facts.capabilities).toContain("x-ignore-shared");
        if (expected?.bitsSet !== undefined) expect(snapshot.countPresent(block)).toBe(expected.bitsSet);
      }
    } finally {
      snapshot.close();
    }
  });

  test.each(files)(
    "$name: info without walking it says the same, and verify finds it good",
    async (facts) => {
      const info = await snapshotInfo(corpusPath(facts), { offset: facts.offset });
      expect(info).toMatchObject({
        complete: true,
        machine: facts.machine,
        targetPageSize: facts.targetPageSize,
      });
      if (facts.devices.length > 0) {
        const described = info.sections.filter(({ iterative }) => !iterative);
        expect(described.map(({ name, instance }) => `${name} ${instance}`).sort()).toEqual(
          facts.devices.map(([name, instance]) => `${name} ${instance}`).sort(),
        );
      }
      const { ok, problems } = await verifySnapshot(corpusPath(facts), { offset: facts.offset });
      expect(ok).toBe(true);
      expect(problems.map(({ code }) => code)).toEqual(EXPECTED_WARNINGS[facts.name] ?? []);
    },
  );
});
