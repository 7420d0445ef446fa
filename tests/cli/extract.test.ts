import { createHash } from "node:crypto";
import { closeSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { ramport, ramportJson, startRamport } from "../support/ramport-cli.js";
import { buildStream } from "../support/stream-builder.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

describeWithCorpus("ramport extract", () => {
  test("a stream from standard input, as a file and as a pipe", async () => {
    const facts = corpusFile("q72-pc-xbzrle-dirty");
    const expected = facts.blocks.map(({ name, usedLength: bytes, sha256 }) => ({ name, bytes, sha256 }));
    const stdin = openSync(corpusPath(facts), "r");
    const args = ["extract", "-", "--all", "--sha256", "-o"];
    const result = await ramportJson([...args, workDir.file("from-file")], { stdin });
    closeSync(stdin);
    expect(result.blocks).toMatchObject(expected);
    const run = startRamport([...args, workDir.file("from-pipe"), "--json"], { stdin: "pipe" });
    run.process.stdin!.end(readFileSync(corpusPath(facts)));
    const piped = await run.ended;
    expect(piped.code, piped.stderr).toBe(0);
    expect(JSON.parse(piped.stdout)).toMatchObject({ blocks: expected, leftOut: [] });
  });

  test("one block of a mapped-ram file", async () => {
    const facts = corpusFile("q100-mr-pc-offset");
    const out = workDir.file("memory.raw");
    const source = `${corpusPath(facts)},offset=${facts.streamOffset}`;
    const { code, stdout, stderr } = await ramport(["extract", source, "--block", "pc.ram", "-o", out]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^Extracted 1 RAM block of pc-i440fx-10\.0\n/);
    const digest = createHash("sha256").update(readFileSync(out)).digest("hex");
    expect(digest).toBe(facts.blocks[0]!.sha256);
  });
});

describe("ramport extract: usage and cancelling", () => {
  test("what is wrong is said, and nothing is written", async () => {
    const stream = workDir.file("vm.stream");
    writeFileSync(stream, buildStream().bytes);
    const out = workDir.file("out");
    for (const [args, message] of [
      [[], /Say what to extract/],
      [["--block", "pc.ram", "--all"], /cannot be used with/],
      [["--block", "toaster"], /no RAM block of this name.*toaster/],
    ] as const) {
      const { code, stderr } = await ramport(["extract", stream, ...args, "-o", out]);
      expect(stderr).toMatch(message);
      expect(code).toBe(2);
    }
    const missing = await ramport(["extract", stream, "--all"]);
    expect(missing.code).toBe(2);
    writeFileSync(out, "precious");
    const exists = await ramport(["extract", stream, "--block", "pc.ram", "-o", out]);
    expect(exists).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/exists already.*--force/) as string,
    });
    const forced = await ramport(["extract", stream, "--block", "pc.ram", "-o", out, "--force"]);
    expect(forced.code, forced.stderr).toBe(0);
    expect(readdirSync(workDir.path).sort()).toEqual(["out", "vm.stream"]);
  });

  test("Ctrl-C while a pipe is silent", async () => {
    const { bytes } = buildStream();
    const run = startRamport(["extract", "-", "--all", "-o", workDir.file("out")], { stdin: "pipe" });
    run.process.stdin!.write(bytes.subarray(0, bytes.length >> 1));
    await expect.poll(() => readdirSync(workDir.path), { timeout: 10_000 }).toEqual(["out"]);
    run.process.kill("SIGINT");
    const { code } = await run.ended;
    expect(code).toBe(130);
    expect(readdirSync(workDir.path)).toEqual([]);
  });
});
