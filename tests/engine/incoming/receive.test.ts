import { describe, expect, test } from "vitest";

import type { ByteSource } from "../../../src/channels/index.js";
import { receiveMigration } from "../../../src/engine/index.js";
import { CancelledError, FormatError } from "../../../src/errors/index.js";
import { Collector } from "../../support/byte-channels.js";
import { RecordingTarget } from "../../support/recording-target.js";
import { buildStream, pageContent } from "../../support/stream-builder.js";

/** Gives the bytes in pieces of a size, and then ends or waits. */
class PiecesSource implements ByteSource {
  closed = false;
  readonly #bytes: Uint8Array;
  readonly #pieceBytes: number;
  readonly #waitsAtEnd: boolean;
  #at = 0;
  #fail: ((error: Error) => void) | undefined;

  constructor(bytes: Uint8Array, pieceBytes = bytes.length, waitsAtEnd = false) {
    this.#bytes = bytes;
    this.#pieceBytes = pieceBytes;
    this.#waitsAtEnd = waitsAtEnd;
  }

  read(target: Uint8Array): Promise<number> {
    const piece = this.#bytes.subarray(this.#at, this.#at + Math.min(this.#pieceBytes, target.length));
    if (piece.length === 0 && this.#waitsAtEnd) {
      return new Promise((_, reject) => (this.#fail = reject));
    }
    target.set(piece);
    this.#at += piece.length;
    return Promise.resolve(piece.length);
  }

  close(): Promise<void> {
    this.closed = true;
    this.#fail?.(new Error("closed"));
    return Promise.resolve();
  }
}

describe("receiveMigration", () => {
  test.each([1, 7, 4096, 4097, 1 << 20])("whole, in pieces of %i bytes", async (pieceBytes) => {
    const { bytes } = buildStream({ early: true });
    const target = new RecordingTarget();
    const result = await receiveMigration(new PiecesSource(bytes, pieceBytes), target);
    expect(result.receivedBytes).toBe(bytes.length);
    expect(result.blocks.map(({ name, usedLength }) => [name, usedLength])).toEqual([
      ["pc.ram", 70 * 4096],
      ["pc.rom", 5 * 4096],
    ]);
    expect(target.pages).toEqual(
      new Map<string, Buffer | "zero">([
        ["0:0", pageContent(0x11)],
        ["0:4096", pageContent(0x22)],
        [`0:${69 * 4096}`, pageContent(0x33)],
        ["0:8192", "zero"],
        [`1:${4 * 4096}`, pageContent(0x44)],
      ]),
    );
    // The early section goes on as it came.
    expect(target.verbatimBytes).toHaveLength(1);
    expect(Buffer.from(target.verbatimBytes[0]!).toString("latin1")).toContain("early");
    expect(target.ends).toEqual([
      [1, true],
      [2, true],
      [3, true],
    ]);
    expect(target.tailSections).toEqual(["timer"]);
  });

  test("answers pings, and confirms when asked to, where there is a return path", async () => {
    const { bytes } = buildStream({ returnPath: true });
    const returnPath = new Collector();
    // The source waits for the confirmation: the description's end is the end.
    const result = await receiveMigration(new PiecesSource(bytes, 5000, true), new RecordingTarget(), {
      returnPath,
    });
    expect(returnPath.bytes.toString("hex")).toBe("0002000400000007");
    await result.confirm();
    expect(returnPath.bytes.toString("hex")).toBe("0002000400000007" + "0001000400000000");
  });

  test("says nothing to a source that opened no return path", async () => {
    const returnPath = new Collector();
    const result = await receiveMigration(new PiecesSource(buildStream().bytes), new RecordingTarget(), {
      returnPath,
    });
    await result.confirm();
    expect(returnPath.bytes.toString("hex")).toBe("");
  });

  test("cancelled while it waits: the source is closed", async () => {
    const source = new PiecesSource(buildStream().bytes.subarray(0, 5000), 5000, true);
    const receiving = receiveMigration(source, new RecordingTarget(), { signal: AbortSignal.timeout(20) });
    await expect(receiving).rejects.toBeInstanceOf(CancelledError);
    expect(source.closed).toBe(true);
  });

  test("cancelled before it begins: nothing is read", async () => {
    const source = new PiecesSource(buildStream().bytes);
    const receiving = receiveMigration(source, new RecordingTarget(), { signal: AbortSignal.abort() });
    await expect(receiving).rejects.toBeInstanceOf(CancelledError);
    expect(await source.read(new Uint8Array(8))).toBe(8);
  });

  test("what a target throws comes out as it is", async () => {
    const failure = new RangeError("of the target");
    const target = new RecordingTarget();
    target.tail = () => {
      throw failure;
    };
    await expect(receiveMigration(new PiecesSource(buildStream().bytes), target)).rejects.toBe(failure);
  });

  test.each([
    ["3", /multiple of the target page size/, 12_288],
    ["another size than 4096", /multiple|page|flag|record/, 8192],
  ])("a target page size that does not fit: %s", async (_what, message, targetPageSize) => {
    const receiving = receiveMigration(new PiecesSource(buildStream().bytes), new RecordingTarget(), {
      targetPageSize,
    });
    await expect(receiving).rejects.toBeInstanceOf(FormatError);
    await expect(receiving).rejects.toThrow(message);
  });

  test("reports progress that grows, and its end", async () => {
    const pages = Array.from({ length: 2000 }, (_, page) => ({ block: "pc.ram", page, fill: 9 }));
    const { bytes } = buildStream({ blocks: [["pc.ram", 2000]], pages });
    const seen: number[] = [];
    await receiveMigration(new PiecesSource(bytes, 100_000), new RecordingTarget(), {
      onProgress: ({ transferredBytes }) => seen.push(transferredBytes),
    });
    expect(seen.toSorted((a, b) => a - b)).toEqual(seen);
    expect(seen.every((count) => count <= bytes.length)).toBe(true);
  });
});
