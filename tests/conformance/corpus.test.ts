/**
 * Files that this very run makes with real QEMUs, held against what their stopped guests said. `RAMPORT_MADE_CORPUS` names
 * a folder of `npm run make-corpus`, all of whose files are then checked too.
 */

import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { parse } from "valibot";
import { describe, expect, test } from "vitest";

import { CorpusIndex, type FileFacts } from "../../corpus/facts.js";
import { makeFile } from "../../corpus/make.js";
import { SCENARIOS } from "../../corpus/scenarios.js";
import type { Snapshot, SnapshotBlock } from "../../src/snapshot/index.js";
import { openSnapshot, snapshotInfo, verifySnapshot } from "../../src/snapshot/index.js";
import { formatUuid } from "../../src/wire/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const work = useWorkDir();

/** What of the capabilities that were on is in a file. */
const IN_THE_FILE = ["x-ignore-shared", "mapped-ram"];
/** Machine types that send no footers, and of which the device sections' lengths are nowhere in the stream. */
const UNDELIMITED = ["q72-pc-2.2", "q72-pc-2.0"];

/** SHA-256 of a part of a block as a loader would have it. */
function hashPart(snapshot: Snapshot, block: SnapshotBlock, offset: number, length: number): string {
  const first = Math.floor(offset / block.pageSize);
  const end = Math.ceil((offset + length) / block.pageSize);
  const pages = new Uint8Array((end - first) * block.pageSize);
  snapshot.readPages(block, first, pages);
  const start = offset - first * block.pageSize;
  return createHash("sha256")
    .update(pages.subarray(start, start + length))
    .digest("hex");
}

function expectBlocks(snapshot: Snapshot, facts: FileFacts): void {
  // QEMU lists blocks that are never sent, too.
  const sent = new Map(snapshot.blocks.map((block) => [block.name, block]));
  for (const block of snapshot.blocks) {
    const expected = facts.blocks.find(({ name }) => name === block.name);
    expect(block.usedLength, block.name).toBe(expected?.usedLength);
  }
  let checkedBytes = 0;
  for (const { name, parts } of facts.blocks) {
    const block = sent.get(name);
    if (block === undefined || block.leftOut) continue;
    for (const { offset, length, sha256 } of parts) {
      expect(hashPart(snapshot, block, offset, length), `${name} from ${offset} on`).toBe(sha256);
      checkedBytes += length;
    }
  }
  const leftOut = facts.capabilitiesOn.includes("x-ignore-shared");
  if (!leftOut && facts.machine !== "none") expect(checkedBytes).toBeGreaterThan(15 << 20);
}

/** Everything that the guest and its QEMU said is what ramport reads. */
async function expectFacts(facts: FileFacts, folder: string): Promise<void> {
  const file = path.join(folder, facts.file);
  const offset = facts.streamOffset;
  const snapshot = await openSnapshot(file, { offset });
  try {
    expect(snapshot).toMatchObject({ format: facts.format, streamOffset: offset, fileBytes: facts.bytes });
    const { machine, capabilities, uuid } = snapshot.configuration;
    expect(machine).toBe(facts.machine);
    expect(capabilities).toEqual(IN_THE_FILE.filter((name) => facts.capabilitiesOn.includes(name)));
    expect(uuid === undefined ? null : formatUuid(uuid)).toBe(facts.uuid);
    expectBlocks(snapshot, facts);
    const { total, normal } = facts.queryMigrate as { total: number; normal: number };
    if (!facts.capabilitiesOn.includes("x-ignore-shared")) expect(snapshot.totalBytes).toBe(total);
    const present = snapshot.blocks.reduce((sum, block) => sum + snapshot.countPresent(block), 0);
    // A page that is sent again counts again, there.
    if (facts.live) expect(present).toBeGreaterThan(0);
    else expect(present).toBe(normal);
  } finally {
    snapshot.close();
  }
  const undelimited = UNDELIMITED.some((name) => facts.name.startsWith(name));
  const info = await snapshotInfo(file, { offset });
  expect(info.complete).toBe(!undelimited);
  if (undelimited) expect(info.problem).toMatch(/^Nothing in the stream says where this device section ends/);
  else expect(info.sections.length).toBeGreaterThan(facts.machine === "none" ? 1 : 8);
  const verified = await verifySnapshot(file, { offset });
  expect(verified.problems.filter(({ severity }) => severity === "error")).toEqual([]);
  expect(verified.problems.some(({ code }) => code === "no-description")).toBe(undelimited);
}

describeWithQemu(["7.2", "10.0", "11.1"], "files made in this run", () => {
  test.each([
    "q72-pc-2.3",
    "q72-pc-2.2",
    "q72-pc-2.0",
    "q72-pc-2.0-xbzrle-live",
    "q72-pc-validate-uuid",
    "q100-pc-file-live",
    "q100-pc-ignore-shared",
    "q100-pc-postcopy-advise",
    "q100-mr-pc-live",
    "q100-mr-pc-odd-size",
    "q100-mr-pc-no-footers",
    "q100-mr-q35-virtio-mem",
    "q111-pc-file-offset",
  ])("%s holds what its guest had", async (name) => {
    const scenario = SCENARIOS.find((one) => one.name === name);
    const made = await makeFile(scenario!, work.path);
    expect(made).toHaveProperty("facts");
    if ("facts" in made) await expectFacts(made.facts, work.path);
  });
});

const whole = process.env.RAMPORT_MADE_CORPUS;
if (whole !== undefined && existsSync(path.join(whole, "index.json"))) {
  const index = parse(CorpusIndex, JSON.parse(readFileSync(path.join(whole, "index.json"), "utf8")));
  describe("every file that make-corpus made", () => {
    test.each(index.files)("$name", (facts) => expectFacts(facts, whole));
  });
}
