/**
 * What is known of the files, and how it is taken from a stopped guest: everything comes from QEMU's monitor, nothing from
 * the file.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { createReadStream, rmSync } from "node:fs";
import path from "node:path";
import { array, boolean, nullable, number, object, optional, parse, record, string, unknown } from "valibot";
import type { InferOutput } from "valibot";

import type { QemuMachine } from "../tests/support/qemu.js";
import type { Scenario } from "./scenarios.js";

/** A piece of a block that the guest's processor sees, as `pmemsave` gave it. */
export const PartFacts = object({ offset: number(), length: number(), sha256: string() });

/** A RAM block, as `x-query-ramblock` names it. */
export const BlockFacts = object({
  name: string(),
  usedLength: number(),
  hostPageSize: number(),
  /** Empty for a block that is mapped nowhere. */
  parts: array(PartFacts),
});

/** One file. */
export const FileFacts = object({
  name: string(),
  file: string(),
  /** Full version of the QEMU. */
  qemu: string(),
  format: string(),
  /** Empty where the stream does not say it. */
  machine: string(),
  /** All that were on; only `mapped-ram` and `x-ignore-shared` are in the file. */
  capabilitiesOn: array(string()),
  /** Null where validate-uuid was off. */
  uuid: nullable(string()),
  streamOffset: number(),
  bytes: number(),
  sha256: string(),
  live: boolean(),
  blocks: array(BlockFacts),
  /** `query-migrate`'s counters, as QEMU names them. */
  queryMigrate: record(string(), unknown()),
});

/** `index.json`. */
export const CorpusIndex = object({
  about: string(),
  files: array(FileFacts),
  /** Scenarios that QEMU refused here. */
  leftOut: optional(array(object({ name: string(), reason: string() }))),
});

/** See {@link FileFacts}. */
export type FileFacts = InferOutput<typeof FileFacts>;
/** See {@link CorpusIndex}. */
export type CorpusIndex = InferOutput<typeof CorpusIndex>;
type BlockFacts = InferOutput<typeof BlockFacts>;

/** Asks a stopped QEMU for all that does not need the file. */
export async function takeFacts(
  machine: QemuMachine,
  scenario: Scenario,
  workDir: string,
): Promise<Pick<FileFacts, "qemu" | "machine" | "capabilitiesOn" | "uuid" | "blocks" | "queryMigrate">> {
  const { qemu } = parse(VersionAnswer, await machine.qmp("query-version"));
  const type = parse(string(), await machine.qmp("qom-get", { path: "/machine", property: "type" }));
  const capabilities = parse(CapabilitiesAnswer, await machine.qmp("query-migrate-capabilities"))
    .filter(({ state }) => state)
    .map(({ capability }) => capability);
  const { UUID: uuid } = parse(UuidAnswer, await machine.qmp("query-uuid"));
  const migration = parse(MigrationAnswer, await machine.qmp("query-migrate"));
  return {
    qemu: `${qemu.major}.${qemu.minor}.${qemu.micro}`,
    machine: scenario.withoutConfiguration === true ? "" : type.replace(/-machine$/, ""),
    capabilitiesOn: capabilities,
    uuid: capabilities.includes("validate-uuid") ? uuid : null,
    blocks: await takeBlocks(machine, workDir),
    queryMigrate: migration.ram,
  };
}

/** Length and SHA-256 of a file. */
export async function hashFile(file: string): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
    const piece = chunk as Buffer;
    bytes += piece.length;
    hash.update(piece);
  }
  return { bytes, sha256: hash.digest("hex") };
}

const VersionAnswer = object({ qemu: object({ major: number(), minor: number(), micro: number() }) });
const CapabilitiesAnswer = array(object({ capability: string(), state: boolean() }));
const UuidAnswer = object({ UUID: string() });
const MigrationAnswer = object({ ram: record(string(), unknown()) });
const TextAnswer = object({ "human-readable-text": string() });

/** A piece of RAM or ROM in the address space. */
interface MappedPiece {
  readonly region: string;
  readonly address: number;
  readonly length: number;
  /** Where in its region it begins. */
  readonly offset: number;
}

async function takeBlocks(machine: QemuMachine, workDir: string): Promise<BlockFacts[]> {
  const listed = parse(TextAnswer, await machine.qmp("x-query-ramblock"))["human-readable-text"];
  const blocks = parseBlocks(listed);
  const tree = await machine.qmp("human-monitor-command", { "command-line": "info mtree -f" });
  const pieces = parseFlatView(parse(string(), tree));
  const names = new Map(
    [...new Set(pieces.map(({ region }) => region))].map((region) => [region, blockOf(region, blocks)]),
  );
  for (const piece of pieces) {
    const block = names.get(piece.region);
    if (block === undefined || piece.offset + piece.length > block.usedLength) continue;
    // The same piece can be mapped twice (a ROM's alias below 1 MiB).
    if (block.parts.some(({ offset }) => offset === piece.offset)) continue;
    block.parts.push({
      offset: piece.offset,
      length: piece.length,
      sha256: await hashMemory(machine, piece, workDir),
    });
  }
  return blocks;
}

/** Lines such as `pc.ram    4 KiB  0x0000000000000000 0x0000000001000000 0x0000000001000000`. */
function parseBlocks(text: string): BlockFacts[] {
  const line = /^\s*(\S+)\s+(\d+) ([KMG])iB\s+0x[0-9a-f]+ 0x([0-9a-f]+) 0x[0-9a-f]+/gm;
  return [...text.matchAll(line)].map(([, name = "", count = "", unit = "", used = ""]) => ({
    name,
    usedLength: parseInt(used, 16),
    hostPageSize: Number(count) * 1024 ** (1 + "KMG".indexOf(unit)),
    parts: [],
  }));
}

/** Lines such as `00000000000c0000-0000000000ffffff (prio 0, ram): pc.ram @00000000000c0000` of the space `memory`. */
function parseFlatView(text: string): MappedPiece[] {
  const view = text.split(/^FlatView #/m).find((part) => part.includes('AS "memory"')) ?? "";
  const line = /^ {2}([0-9a-f]+)-([0-9a-f]+) \(prio -?\d+, (?:ram|rom)\): (\S+)(?: @([0-9a-f]+))?/gm;
  return [...view.matchAll(line)].map(([, from = "", to = "", region = "", offset = "0"]) => ({
    region,
    address: parseInt(from, 16),
    length: parseInt(to, 16) - parseInt(from, 16) + 1,
    offset: parseInt(offset, 16),
  }));
}

/** A block is named after its region, with the device's path in front. */
function blockOf(region: string, blocks: readonly BlockFacts[]): BlockFacts | undefined {
  const same = blocks.filter(({ name }) => name === region || name.endsWith(`/${region}`));
  return same.length === 1 ? same[0] : undefined;
}

async function hashMemory(machine: QemuMachine, piece: MappedPiece, workDir: string): Promise<string> {
  const filename = path.join(workDir, "memory");
  await machine.qmp("pmemsave", { val: piece.address, size: piece.length, filename });
  try {
    const { bytes, sha256 } = await hashFile(filename);
    if (bytes !== piece.length) throw new Error(`pmemsave wrote ${bytes} bytes instead of ${piece.length}`);
    return sha256;
  } finally {
    rmSync(filename, { force: true });
  }
}
