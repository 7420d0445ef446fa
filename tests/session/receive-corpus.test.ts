/** Streams that QEMUs of several versions wrote become mapped-ram files with the memory that their guests had. */

import { describe, expect, test } from "vitest";

import { parseMigrationUri } from "../../src/channels/index.js";
import { receiveSnapshot } from "../../src/session/index.js";
import { corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { readMappedRamContent } from "../support/mapped-ram-content.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

describeWithCorpus("receive of streams in the corpus", () => {
  test.each([
    "q72-pc-exec",
    "q100-pc-exec",
    "q100-tiny-exec",
    "q111-pc-exec-dirty",
    "q72-pc-xbzrle-dirty",
    "q72-pc-compress-dirty",
    "q100-pc-file-offset",
    "q72-pc-validateuuid",
    // Postcopy was advised and not needed; huge pages put their size into the block list.
    "q100-pc-postcopy-huge",
    "q111-pc-virtio",
    "q72-q35-vga-e1000-exec",
    "q111-q35-numa-nvdimm-dimm",
  ])("%s: the blocks are those of the guest, nothing stale is in the file", async (name) => {
    const facts = corpusFile(name);
    const file = workDir.file("vm.ram");
    const offset = facts.streamOffset === 0 ? "" : `,offset=${facts.streamOffset}`;
    const uri = parseMigrationUri(`file:${corpusPath(facts)}${offset}`);
    const result = await receiveSnapshot(uri, file);
    expect(result).toMatchObject({
      path: file,
      machine: facts.machine,
      ramBytes: facts.blocks.reduce((sum, block) => sum + block.usedLength, 0),
      receivedBytes: facts.bytes - facts.streamOffset,
    });
    const content = readMappedRamContent(file);
    expect(content.capabilities).toEqual([...facts.capabilities, "mapped-ram"]);
    expect(content.blocks).toEqual(
      facts.blocks.map(({ name: block, usedLength, sha256 }) => ({ name: block, usedLength, sha256 })),
    );
    expect(content.stalePages).toBe(0);
    // Of some files the index does not list them.
    if (facts.devices.length > 0) {
      expect(content.devices.map(([device, instance]) => [device, instance])).toEqual(
        facts.devices.map(([device, instance]) => [device, instance]),
      );
    }
  });

  describe("what cannot become a mapped-ram file", () => {
    test.each([
      ["q100-pc-ignoreshared", /x-ignore-shared/],
      ["q100-mr-pc", /mapped-ram file already/],
      ["lv113-raw", /not a QEMU migration stream/],
    ])("%s is refused", async (name, message) => {
      const uri = parseMigrationUri(`file:${corpusPath(corpusFile(name))}`);
      await expect(receiveSnapshot(uri, workDir.file("vm.ram"))).rejects.toThrow(message);
    });
  });
});
