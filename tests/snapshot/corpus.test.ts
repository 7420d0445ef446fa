/** Every good file of the corpus, whatever its container: facts and memory are those of the stopped guest. */

import { expect, test } from "vitest";

import { openSnapshot, snapshotInfo, verifySnapshot } from "../../src/snapshot/index.js";
import { corpus, corpusOffset, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { sha256Of } from "./block-hash.js";

/** What verify has to say about good files, and why. */
const EXPECTED_WARNINGS: Readonly<Record<string, readonly string[]>> = {
  // A machine without any content looks like a file whose writer died.
  "q100-mr-none": ["all-bitmaps-empty"],
  // QEMU's own live file.
  "q100-mr-pc-dirty": ["stale-pages"],
  // QEMU saves two IDE controllers of this machine under one name.
  "q72-isapc": ["duplicate-section"],
};

describeWithCorpus("every file that QEMU and libvirt wrote", () => {
  const files = corpus?.files ?? [];

  test.each(files)("$name: facts and memory", async (facts) => {
    const snapshot = await openSnapshot(corpusPath(facts), { offset: corpusOffset(facts) });
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
      const info = await snapshotInfo(corpusPath(facts), { offset: corpusOffset(facts) });
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
      const { ok, problems } = await verifySnapshot(corpusPath(facts), { offset: corpusOffset(facts) });
      expect(ok).toBe(true);
      expect(problems.map(({ code }) => code)).toEqual(EXPECTED_WARNINGS[facts.name] ?? []);
    },
  );
});
