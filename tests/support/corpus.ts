/**
 * The corpus: migration files that real QEMUs and libvirt wrote, with facts taken from the stopped guests. It stands
 * beside the checkout, and not everywhere.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { array, boolean, nullable, number, object, optional, parse, string, tuple } from "valibot";
import type { InferOutput } from "valibot";
import { describe, test } from "vitest";

import { MachineError } from "../../src/errors/index.js";

const BlockFacts = object({
  name: string(),
  usedLength: number(),
  /** Of the content as a loader sees it. */
  sha256: string(),
  targetPageSize: optional(number()),
  bitmapOffset: optional(number()),
  pagesOffset: optional(number()),
  bitsSet: optional(number()),
  stalePages: optional(number()),
});

const FileFacts = object({
  name: string(),
  file: string(),
  container: string(),
  format: string(),
  machine: string(),
  capabilities: array(string()),
  uuid: nullable(string()),
  targetPageSize: number(),
  streamOffset: number(),
  bytes: number(),
  blocks: array(BlockFacts),
  /** Name, instance and version. */
  devices: array(tuple([string(), number(), nullable(number())])),
});

const BrokenFacts = object({
  name: string(),
  file: string(),
  bytes: number(),
  intact: boolean(),
  base: string(),
});

const CorpusIndex = object({ files: array(FileFacts), broken: array(BrokenFacts) });

/** What is known of a file. */
export type CorpusFile = InferOutput<typeof FileFacts>;
/** What is known of a file that was damaged on purpose. */
export type BrokenCorpusFile = InferOutput<typeof BrokenFacts>;

const repo = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..", "..");
const folder = process.env.RAMPORT_CORPUS ?? path.resolve(repo, "..", "shared", "corpus");
const cache = path.join(repo, ".cache", "corpus");

const missing = reasonOfAbsence();

/** The index; undefined where there is no corpus. */
export const corpus = missing === undefined ? readIndex() : undefined;

/** QEMU's own mapped-ram files; empty where there is no corpus. */
export const mappedRamCorpus: readonly CorpusFile[] =
  corpus?.files.filter(({ container, format }) => container === "qemu" && format === "mapped-ram") ?? [];

/** A `describe` for tests that need the corpus; without it the suite is skipped and its name says why. */
export function describeWithCorpus(title: string, body: () => void): void {
  if (missing === undefined) describe(title, body);
  else test.skip(`${title}: skipped, ${missing}`);
}

/** What the index says of a file. */
export function corpusFile(name: string): CorpusFile {
  const facts = corpus?.files.find((file) => file.name === name);
  if (facts === undefined) throw new MachineError("io", `The corpus has no ${name}`);
  return facts;
}

/** Where a reader starts: libvirt's images start at their own header, the others where the stream does. */
export function corpusOffset(facts: CorpusFile): number {
  return facts.container === "libvirt" ? 0 : facts.streamOffset;
}

/** The file, unpacked. Others use it too: do not write to it. */
export function corpusPath(facts: CorpusFile | BrokenCorpusFile): string {
  const isBroken = "intact" in facts;
  const part = isBroken ? "broken" : ".";
  const target = path.join(cache, part, `${facts.name}.mig`);
  if (statSync(target, { throwIfNoEntry: false })?.size === facts.bytes) return target;
  mkdirSync(path.dirname(target), { recursive: true });
  const source = path.join(folder, part, facts.file);
  const temporary = `${target}.${process.pid}`;
  const result = spawnSync("zstd", ["-d", "--long=27", "--sparse", "-q", "-f", "-o", temporary, source], {
    encoding: "utf8",
  });
  if (result.status !== 0)
    throw new MachineError("io", `Unpacking ${facts.name} failed: ${result.stderr.trim()}`);
  renameSync(temporary, target);
  return target;
}

function readIndex(): InferOutput<typeof CorpusIndex> {
  return parse(CorpusIndex, JSON.parse(readFileSync(path.join(folder, "index.json"), "utf8")));
}

function reasonOfAbsence(): string | undefined {
  if (!existsSync(path.join(folder, "index.json")))
    return "there is no corpus; RAMPORT_CORPUS can name its folder";
  if (spawnSync("zstd", ["--version"]).error !== undefined) return "there is no zstd to unpack the corpus";
  return undefined;
}
