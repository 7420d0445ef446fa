import { createHash } from "node:crypto";
import fs from "node:fs";

import { OutputFile, type OutputFileOptions } from "../channels/output-file.js";
import { ReadableFile } from "../channels/file.js";
import { FormatError } from "../errors/index.js";
import type { Snapshot } from "./snapshot.js";
import type { WorkingSet, WorkingSetIdentity } from "./working-set.js";
import { decodeWorkingSet, encodeWorkingSet, LARGEST_WORKING_SET_BYTES } from "./working-set-format.js";

/** Where the working set of a snapshot is kept when nothing else is said: beside it. */
export function workingSetPathOf(snapshotPath: string): string {
  return `${snapshotPath}.ws`;
}

/**
 * What ties a working set to a snapshot. The fingerprint is of the machine and its device state, with its clocks and
 * counters: it stays the same in a copy, in another container and at another offset, and is another one for each save.
 *
 * @throws What reading sections throws.
 */
export function workingSetIdentity(snapshot: Snapshot): WorkingSetIdentity {
  const { targetPageSize, configuration, blocks, sections } = snapshot;
  const hash = createHash("sha256");
  const field = (bytes: Uint8Array): void => {
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(bytes.length));
    hash.update(length).update(bytes);
  };
  const text = new TextEncoder();
  field(text.encode(configuration.machine));
  field(configuration.uuid ?? new Uint8Array());
  for (const section of sections) {
    if (section.payloadLength === undefined) continue;
    field(text.encode(`${section.name} ${section.instance} ${section.version}`));
    field(snapshot.readSection(section));
  }
  return {
    targetPageSize,
    blocks: blocks.map(({ name, usedLength }) => ({ name, usedLength })),
    fingerprint: new Uint8Array(hash.digest().subarray(0, 16)),
  };
}

/**
 * Reads a working-set file.
 *
 * @throws FormatError when it is none or is damaged; MachineError `io`.
 */
export function readWorkingSet(path: string): WorkingSet {
  const file = ReadableFile.open(path);
  try {
    if (file.sizeBytes > LARGEST_WORKING_SET_BYTES) {
      throw new FormatError("limit-exceeded", `${path} is too large for a working set`, {
        expected: `at most ${LARGEST_WORKING_SET_BYTES} bytes`,
        actual: file.sizeBytes,
        path,
      });
    }
    const bytes = new Uint8Array(file.sizeBytes);
    return decodeWorkingSet(bytes.subarray(0, file.readAt(bytes, 0)));
  } finally {
    file.close();
  }
}

/** Reads a working-set file if there is one. Throws as {@link readWorkingSet} does. */
export function readWorkingSetIfThere(path: string): WorkingSet | undefined {
  return fs.existsSync(path) ? readWorkingSet(path) : undefined;
}

/**
 * Writes a working-set file, whole or not at all.
 *
 * @throws UsageError when there is one and it may not be replaced; MachineError `io`.
 */
export async function writeWorkingSet(
  set: WorkingSet,
  path: string,
  options: OutputFileOptions = {},
): Promise<void> {
  const output = OutputFile.create(path, options);
  try {
    const bytes = encodeWorkingSet(set);
    output.writeAt(bytes, 0, bytes.length, 0);
    await output.commit();
  } finally {
    output.discard();
  }
}
