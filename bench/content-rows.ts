import path from "node:path";

import { settle } from "./page-cache.js";
import type { RamportJob } from "./ramport-process.js";
import type { Comparison, Row } from "./row.js";
import { allocatedBytes, measureJob, type Setting, timeSync, withOutput } from "./rows.js";
import { runTool } from "./run-tool.js";
import type { Sample } from "./sample.js";

/** Files to work on. */
export interface ContentSetting extends Setting {
  /** The mapped-ram file once more: what `diff` compares it with. */
  readonly mappedCopy: string;
}

type Input = "stream" | "mapped";

const INPUT_NAMES = { stream: "stream", mapped: "mapped-ram" } as const;

/** How `cp` is told to leave holes. */
const CP_SPARSE = "--sparse=always";

/** What passes whole files through one process, or from one file to another. */
export const CONTENT_ROWS: readonly Row<ContentSetting>[] = [
  ...contentRows("stream"),
  ...contentRows("mapped"),
  cat(),
  {
    name: "ramport receive file:STREAM",
    baseline: "cat STREAM >FILE",
    measure: writes("stream", (input, output) => ({ kind: "receive", uri: `file:${input}`, output })),
  },
];

function contentRows(input: Input): Row<ContentSetting>[] {
  const format = INPUT_NAMES[input];
  const otherFormat = input === "stream" ? "mapped-ram" : "stream";
  const read = `read, pieces of 1 MiB: ${format}`;
  const copy = `cp ${CP_SPARSE}: ${format}`;
  const besideRead: Comparison = { of: read, label: "read", atLeast: 0.8, warmOnly: true };
  const besideBoth = [besideRead, { of: copy, label: "cp" }];
  return [
    { name: read, measure: reads(input, (file) => ({ kind: "read", input: file })) },
    ...(input === "stream" ? [readByDd(read)] : []),
    {
      name: `ramport verify: ${format}`,
      baseline: read,
      comparisons: [besideRead],
      measure: reads(input, (file) => ({ kind: "verify", input: file })),
    },
    ...(input === "mapped" ? [diffRow(read, besideRead)] : []),
    { name: copy, baseline: read, measure: (setting) => copyByCp(setting, input) },
    {
      name: `ramport extract pc.ram: ${format}`,
      baseline: read,
      comparisons: besideBoth,
      measure: writes(input, (file, output) => ({ kind: "extract", input: file, block: "pc.ram", output })),
    },
    {
      name: `ramport convert: ${format} to ${otherFormat}`,
      baseline: read,
      comparisons: besideBoth,
      measure: writes(input, (file, output) => ({ kind: "convert", input: file, to: otherFormat, output })),
    },
    ...[false, true].map((verify): Row<ContentSetting> => ({
      name: `ramport copy${verify ? "" : " --no-verify"}: ${format}`,
      baseline: read,
      comparisons: besideBoth,
      measure: writes(input, (file, output) => ({ kind: "copy", input: file, output, verify })),
    })),
  ];
}

function reads(
  input: Input,
  jobOf: (file: string) => RamportJob,
): (setting: ContentSetting) => Promise<Sample> {
  return async (setting) => {
    const file = setting[input];
    return measureJob(setting, jobOf(file), [file], await allocatedBytes(file));
  };
}

function writes(
  input: Input,
  jobOf: (input: string, output: string) => RamportJob,
): (setting: ContentSetting) => Promise<Sample> {
  return (setting) =>
    withOutput(setting.directory, async (output) => {
      const file = setting[input];
      return measureJob(setting, jobOf(file, output), [file], await allocatedBytes(file));
    });
}

/** It reads two files, so that it has twice as many bytes to pass. */
function diffRow(baseline: string, besideRead: Comparison): Row<ContentSetting> {
  return {
    name: "ramport diff: mapped-ram, its copy",
    baseline,
    comparisons: [besideRead],
    async measure(setting) {
      const files = [setting.mapped, setting.mappedCopy] as const;
      const bytes = (await allocatedBytes(files[0])) + (await allocatedBytes(files[1]));
      return measureJob(setting, { kind: "diff", input: files[0], other: files[1] }, files, bytes);
    },
  };
}

function readByDd(baseline: string): Row<ContentSetting> {
  return {
    name: "dd bs=1M of=/dev/null: stream",
    baseline,
    async measure(setting) {
      await settle(setting, [setting.stream]);
      const { ms, cpuMs } = await runTool("dd", [`if=${setting.stream}`, "bs=1M", "of=/dev/null"]);
      const bytes = await allocatedBytes(setting.stream);
      return { moveMs: ms, syncMs: 0, wholeMs: ms, bytes, toolCpuMs: cpuMs };
    },
  };
}

function copyByCp(setting: ContentSetting, input: Input): Promise<Sample> {
  return measureCopy(setting, input, (file, output) => runTool("cp", [CP_SPARSE, file, output]));
}

function cat(): Row<ContentSetting> {
  const shell = (file: string, output: string): ReturnType<typeof runTool> =>
    runTool("sh", ["-c", `exec cat "$1" >"$2"`, "sh", file, output]);
  return { name: "cat STREAM >FILE", measure: (setting) => measureCopy(setting, "stream", shell) };
}

function measureCopy(
  setting: ContentSetting,
  input: Input,
  copy: (file: string, output: string) => ReturnType<typeof runTool>,
): Promise<Sample> {
  return withOutput(setting.directory, async (output) => {
    const file = setting[input];
    await settle(setting, [file]);
    const { ms, cpuMs } = await copy(file, output);
    const syncMs = await timeSync(output);
    const bytes = await allocatedBytes(file);
    return { moveMs: ms, syncMs, wholeMs: ms + syncMs, bytes, toolCpuMs: cpuMs };
  });
}

/** Adds the copy. */
export async function prepareContent(setting: Setting): Promise<ContentSetting> {
  const mappedCopy = path.join(setting.directory, "mapped-copy");
  await runTool("cp", [CP_SPARSE, setting.mapped, mappedCopy]);
  await timeSync(mappedCopy);
  return { ...setting, mappedCopy };
}
