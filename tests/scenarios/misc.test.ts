/** QEMU's misc-tests.c: wrong destinations, UUIDs, shared memory, and what QEMU's own script reads of a stream. */

import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, openSync, statSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { findAnalyzer } from "../support/find-qemu.js";
import { isRequired } from "../support/missing.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";
import {
  endMachinesAfterEach,
  ensureConverge,
  ensureNonConverge,
  expectCompleted,
  expectGoesOn,
  expectLoaded,
  expectRunsOn,
  expectTargetFailed,
  MEMORY_BYTES,
  migrate,
  setCapabilities,
  setParameters,
  startMachine,
  startPair,
} from "./framework.js";

const MIB = 1 << 20;
const workDir = useWorkDir();
endMachinesAfterEach();

const socketUri = (): string => `unix:${workDir.file("migsocket")}`;

test("/migration/bad_dest", async () => {
  const pair = await startPair({ incoming: "tcp:127.0.0.1:0" });
  const { from, to } = pair;
  await migrate(pair, "tcp:127.0.0.1:0");
  await from.waitForStatus("failed", ["active", "completed"]);
  expect(from.events).toEqual(["MIGRATION setup", "MIGRATION failing", "MIGRATION failed"]);
  const reason = expect.stringContaining("127.0.0.1:0") as string;
  expect(await from.queryMigrate()).toEqual({ status: "failed", "error-desc": reason });
  await expectRunsOn(from);
  expect(await to.queryMigrate()).toMatchObject({ status: "setup" });
});

describe("validate-uuid", () => {
  const one = ["-uuid", "11111111-1111-1111-1111-111111111111"];
  const other = ["-uuid", "22222222-2222-2222-2222-222222222222"];

  test.each([
    ["/migration/validate_uuid", one, one],
    ["/migration/validate_uuid_src_not_set", [], other],
    ["/migration/validate_uuid_dst_not_set", one, []],
  ])("%s", async (_name, source, target) => {
    const pair = await startPair({
      incoming: socketUri(),
      source: { args: source },
      target: { args: target },
    });
    await setParameters(pair.from, { "downtime-limit": 1_000_000 });
    await setCapabilities(pair.from, "validate-uuid");
    await migrate(pair);
    await expectCompleted(pair, { live: true });
    await expectLoaded(pair, { resumed: true, deferred: false });
    await expectGoesOn(pair);
  });

  test("/migration/validate_uuid_error", async () => {
    const pair = await startPair({
      incoming: socketUri(),
      source: { args: one },
      target: { args: other },
    });
    await setParameters(pair.from, { "downtime-limit": 1_000_000 });
    await setCapabilities(pair.from, "validate-uuid");
    await migrate(pair);
    await pair.from.waitForStatus("failed", ["completed", "cancelled"]);
    const result = await expectTargetFailed(pair, /UUID/i);
    expect(result.stderr).toContain("11111111-1111-1111-1111-111111111111");
    await expectRunsOn(pair.from);
  });
});

test("/migration/validate_uri/channels/both_set", async () => {
  const { from } = await startPair({ incoming: "defer" });
  const addr = { transport: "socket", type: "inet", host: "127.0.0.1", port: "0" };
  const args = { uri: "tcp:127.0.0.1:0", channels: [{ "channel-type": "main", addr }] };
  await expect(from.qmp("migrate", args)).rejects.toThrow(/uri.*channels/);
  expect(await from.queryMigrate()).toEqual({});
  await expectRunsOn(from);
});

test("/migration/validate_uri/channels/none_set", async () => {
  const { from } = await startPair({ incoming: "defer" });
  await expect(from.qmp("migrate", {})).rejects.toThrow(/uri.*channels/);
  expect(await from.queryMigrate()).toEqual({});
  await expectRunsOn(from);
});

test.runIf(process.platform === "linux")("/migration/ignore-shared", async () => {
  const memory = workDir.file("memory");
  const fd = openSync(memory, "w");
  ftruncateSync(fd, MEMORY_BYTES);
  closeSync(fd);
  const args = ["-mem-path", memory, "-mem-share", "on"];
  const pair = await startPair({
    incoming: socketUri(),
    capabilities: ["x-ignore-shared"],
    source: { args },
    target: { args },
    oneAfterTheOther: true,
  });
  await ensureNonConverge(pair.from);
  await pair.from.vm.waitForMorePasses(2);
  await migrate(pair);
  const answer = await expectCompleted(pair, { live: true, ramBytes: MIB });
  // The RAM itself has not travelled: the video memory is nearly empty, and the rest is devices.
  expect(answer.ram?.normal).toBeLessThan(32);
  expect(answer.ram?.transferred).toBeLessThan(4 * MIB);
  expect(statSync(memory).size).toBe(MEMORY_BYTES);
  await expectLoaded(pair, { resumed: true, deferred: false });
  await expectGoesOn(pair);
});

describe("/migration/analyze-script", () => {
  const uuid = "11111111-1111-1111-1111-111111111111";

  test.each([
    ["/migration/analyze-script", (file: string) => `exec:cat > ${file}`],
    ["/migration/analyze-script, file:", (file: string) => `file:${file}`],
  ])("%s", async (_name, uri) => {
    const analyzer = findAnalyzer();
    const from = await startMachine({ args: ["-uuid", uuid] });
    await from.vm.waitForPass(2);
    // Both make subsections of the configuration.
    await setCapabilities(from, "validate-uuid", "x-ignore-shared");
    await ensureConverge(from);
    const file = workDir.file("migfile");
    await from.qmp("migrate", { uri: uri(file) });
    await expectCompleted({ from }, { live: true });

    if ("path" in analyzer) {
      const read = spawnSync("python3", [analyzer.path, "-f", file], {
        encoding: "utf8",
        maxBuffer: 64 * MIB,
      });
      expect(read.stderr).toBe("");
      expect(read.status).toBe(0);
      expectAnalyzed(JSON.parse(read.stdout) as Record<string, unknown>);
    } else if (isRequired("RAMPORT_REQUIRE_QEMU")) throw new Error(analyzer.missing);
    else console.warn(`QEMU's analyze-migration.py is not run: ${analyzer.missing}`);

    const info = await ramportJson(["inspect", file]);
    const { devices } = info as { devices: readonly { name: string }[] };
    expect(devices.map(({ name }) => name)).toContain("globalstate");
    expect(await ramport(["verify", file])).toMatchObject({ code: 0 });
  });
});

/** The script prints each section with its fields. It finds RAM only behind a configuration that it understands. */
function expectAnalyzed(sections: Readonly<Record<string, unknown>>): void {
  expect(sections["ram (2)"]).toEqual({
    "section sizes": { "pc.ram": hex16(MEMORY_BYTES), "vga.vram": hex16(MIB) },
  });
  expect(Object.keys(sections)).toContainEqual(expect.stringMatching(/^globalstate \(/));
  expect(Object.keys(sections)).toContainEqual(expect.stringMatching(/^v86/));
}

function hex16(value: number): string {
  return `0x${value.toString(16).padStart(16, "0")}`;
}
