import type { RandomAccessSource } from "../channels/index.js";
import { findOverlaps } from "../engine/mapped-ram/areas.js";
import type { ProgressListener } from "../engine/progress.js";
import { FormatError, throwIfAborted } from "../errors/index.js";
import type { ExaminedStreamTail } from "../wire/index.js";
import { identifySnapshot, type SnapshotIdentity } from "./identify.js";
import { type MappedRamReading, readMappedRam } from "./mapped-ram-reading.js";
import { openSource, type SnapshotLocation } from "./open.js";
import { WalkPace } from "./page-windows.js";
import type { SnapshotSection } from "./snapshot.js";
import { type CheckedPages, PageChecker } from "./verify-pages.js";
import { ProblemList } from "./verify-problems.js";
import type { VerifiedBlock, VerifyResult } from "./verify-result.js";
import { findDisagreements, walkForVerify } from "./verify-stream.js";

/** How to verify. */
export interface VerifyOptions extends SnapshotLocation {
  readonly signal?: AbortSignal;
  /** `transferredBytes` counts guest memory that was looked after, whether it had to be read or not. */
  readonly onProgress?: ProgressListener;
}

/**
 * Checks everything about a snapshot file that can be checked without a virtual machine, and goes on after what is wrong.
 * Much of it QEMU itself accepts in silence. What pages and devices hold is not checked: nothing in the file says it.
 *
 * @returns The findings: a damaged file is no exception here.
 * @throws FormatError `unsupported` for kinds of snapshots that cannot be read yet; MachineError `io`; UsageError;
 *   CancelledError.
 */
export async function verifySnapshot(
  file: string | RandomAccessSource,
  options: VerifyOptions = {},
): Promise<VerifyResult> {
  throwIfAborted(options.signal);
  const { source, offset, close } = openSource(file, options);
  try {
    return await new Verification(source, offset, options).run();
  } finally {
    close();
  }
}

class Verification {
  readonly #source: RandomAccessSource;
  readonly #offset: number;
  readonly #options: VerifyOptions;
  readonly #problems = new ProblemList();

  constructor(source: RandomAccessSource, offset: number, options: VerifyOptions) {
    this.#source = source;
    this.#offset = offset;
    this.#options = options;
  }

  async run(): Promise<VerifyResult> {
    const identity = this.#attempt(() => identifySnapshot(this.#source, this.#offset));
    if (identity === undefined) return this.#result({});
    if (identity.libvirt?.finished === false) {
      const message = "libvirt had not finished this image";
      this.#problems.add(new FormatError("truncated", message, { offset: this.#offset }));
    }
    const facts =
      identity.format === "stream"
        ? await this.#verifyStream(identity)
        : await this.#verifyMappedRam(identity);
    return this.#result({ ...describeIdentity(identity), ...facts });
  }

  async #verifyMappedRam(identity: SnapshotIdentity): Promise<Partial<VerifyResult>> {
    const reading = this.#read(identity.streamOffset);
    if (reading === undefined) return {};
    this.#checkTail(reading.tail);
    this.#checkSections(reading.sections);
    const overlaps = findOverlaps(reading.skeleton, this.#source.sizeBytes);
    for (const { error } of overlaps) this.#problems.add(error, "overlap");
    const tainted = new Set(overlaps.flatMap(({ blocks: places }) => places));
    const blocks = await this.#checkPages(reading, tainted);
    const { skeleton, sections } = reading;
    return {
      targetPageSize: skeleton.pageSize,
      ram: { totalBytes: skeleton.totalBytes, pages: sumPages(blocks), blocks },
      sections: sections.length,
    };
  }

  async #verifyStream(identity: SnapshotIdentity): Promise<Partial<VerifyResult>> {
    const walked = await this.#attemptAsync(walkForVerify(this.#source, identity, this.#options));
    if (walked === undefined) return {};
    const { reading, blocks } = walked;
    const { head, tail, sections } = reading;
    this.#checkTail(tail);
    this.#checkSections(sections);
    for (const problem of findDisagreements(reading)) this.#problems.add(problem);
    const totalBytes = blocks.reduce((sum, block) => sum + block.usedLength, 0);
    return {
      ...(head.configuration === undefined ? {} : { machine: head.configuration.machine }),
      targetPageSize: head.pageSize,
      ram: { totalBytes, pages: sumPages(blocks), blocks },
      sections: sections.length,
    };
  }

  #read(streamOffset: number): MappedRamReading | undefined {
    const found: FormatError[] = [];
    return this.#attempt(() => {
      try {
        return readMappedRam(this.#source, streamOffset, "all", found);
      } finally {
        // In front of what ended the reading, where something did.
        for (const problem of found) this.#problems.add(problem);
      }
    });
  }

  #checkTail(tail: Partial<ExaminedStreamTail> | undefined): void {
    if (tail?.eofOffset === undefined) return;
    const { description, eofOffset, trailingBytes = 0, problems = [], undelimited } = tail;
    if (undelimited !== undefined) this.#problems.warn(undelimited, "no-description");
    else if (
      description === undefined &&
      !problems.some((problem) => problem.data.offset === eofOffset + 1)
    ) {
      const error = new FormatError("truncated", "The vmstate description is missing", {
        offset: eofOffset + 1,
      });
      this.#problems.warn(error, "no-description");
    }
    if (trailingBytes > 0) {
      const error = new FormatError("inconsistent", "Bytes follow the end of the snapshot", {
        offset: this.#source.sizeBytes - trailingBytes,
        actual: trailingBytes,
      });
      this.#problems.warn(error, "trailing-bytes");
    }
  }

  #checkSections(sections: readonly SnapshotSection[]): void {
    const names = new Set<string>();
    const ids = new Set<number>();
    for (const { id, name, instance, offset } of sections) {
      const key = `${instance} ${name}`;
      if (names.has(key)) {
        const message = "A section has the name and instance of another";
        // QEMU itself saves two isa-ide of an isapc so.
        this.#problems.warn(
          new FormatError("inconsistent", message, { offset, section: name, actual: instance }),
          "duplicate-section",
        );
      }
      if (ids.has(id)) {
        const message = "A section has the number of another";
        this.#problems.add(
          new FormatError("inconsistent", message, { offset, section: name, actual: id }),
          "duplicate-section",
        );
      }
      names.add(key);
      ids.add(id);
    }
  }

  async #checkPages(
    { skeleton, problems }: MappedRamReading,
    tainted: ReadonlySet<number>,
  ): Promise<VerifiedBlock[]> {
    const damagedEntries = new Set(
      problems.flatMap(({ data }) => (data.block === undefined ? [] : [data.offset])),
    );
    const pace = new WalkPace("verifying", skeleton.totalBytes, this.#options);
    const checker = new PageChecker(this.#source, this.#problems, pace);
    const blocks: VerifiedBlock[] = [];
    for (const [index, { name, usedLength, entryOffset, mapped }] of skeleton.blocks.entries()) {
      const checkable = mapped !== undefined && !tainted.has(index) && !damagedEntries.has(entryOffset);
      const pages = checkable
        ? await this.#attemptAsync(checker.check({ name, usedLength, ...mapped }))
        : undefined;
      blocks.push({ name, usedLength, ...(pages === undefined ? {} : { pages }) });
      pace.endBlock(usedLength);
    }
    const { total, normal } = sumPages(blocks);
    if (total > 0 && normal === 0) {
      const error = new FormatError(
        "inconsistent",
        "No page of the guest has content: the writer may have died",
        {
          section: "ram",
        },
      );
      this.#problems.warn(error, "all-bitmaps-empty");
    }
    return blocks;
  }

  #attempt<T>(action: () => T): T | undefined {
    try {
      return action();
    } catch (error) {
      this.#keep(error);
      return undefined;
    }
  }

  async #attemptAsync<T>(action: Promise<T>): Promise<T | undefined> {
    try {
      return await action;
    } catch (error) {
      this.#keep(error);
      return undefined;
    }
  }

  #keep(error: unknown): void {
    if (!(error instanceof FormatError)) throw error;
    this.#problems.add(error);
  }

  #result(facts: Partial<VerifyResult>): VerifyResult {
    const { problems, omitted, errors } = this.#problems;
    return {
      ok: errors === 0,
      problems,
      omittedProblems: omitted,
      fileBytes: this.#source.sizeBytes,
      streamOffset: this.#offset,
      ...facts,
    };
  }
}

function describeIdentity({ container, format, configuration }: SnapshotIdentity): Partial<VerifyResult> {
  return {
    container,
    format,
    ...(configuration === undefined ? {} : { machine: configuration.machine }),
  };
}

function sumPages(blocks: readonly VerifiedBlock[]): CheckedPages {
  const sum = (field: keyof CheckedPages): number =>
    blocks.reduce((total, { pages }) => total + (pages?.[field] ?? 0), 0);
  return { total: sum("total"), normal: sum("normal"), zero: sum("zero"), stale: sum("stale") };
}
