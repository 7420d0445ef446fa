import { spawnSync } from "node:child_process";
import fs from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { findAnalyzer } from "../tests/support/find-qemu.js";
import { writeDenseStream } from "./dense-stream.js";
import { dropFromCache } from "./page-cache.js";
import type { Row } from "./row.js";
import { allocatedBytes, type Setting, timeSync } from "./rows.js";
import { CommandFailed, runTool } from "./run-tool.js";
import type { Sample } from "./sample.js";

/** The command line, as `npm run build` makes it. */
export const RAMPORT = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));

/** Files to look into. */
export interface InspectSetting extends Setting {
  /** A stream of the same guest with content in each page of its RAM. */
  readonly denseStream: string;
  /** QEMU's script, or why there is none. */
  readonly analyzer: { readonly path: string } | { readonly missing: string };
}

type Input = "stream" | "denseStream" | "mapped";

const INPUTS: readonly (readonly [Input, string])[] = [
  ["stream", "stream"],
  ["denseStream", "stream, all of RAM"],
  ["mapped", "mapped-ram"],
];

/** Ways of looking at a guest's devices. */
export const INSPECT_ROWS: readonly Row<InspectSetting>[] = INPUTS.flatMap(
  ([input, label]): Row<InspectSetting>[] => {
    const baseline = `analyze-migration.py: ${label}`;
    return [
      { name: baseline, isSlow: true, measure: (setting) => analyze(setting, input) },
      {
        name: `ramport inspect --json: ${label}`,
        baseline,
        measure: (setting) => readByTool(setting, input, process.execPath, [RAMPORT, "inspect", "--json"]),
      },
    ];
  },
);

async function analyze(setting: InspectSetting, input: Input): Promise<Sample | string> {
  const { analyzer } = setting;
  if ("missing" in analyzer) return analyzer.missing;
  try {
    return await readByTool(setting, input, "python3", [analyzer.path, "-f"]);
  } catch (error) {
    if (error instanceof CommandFailed) return error.message;
    throw error;
  }
}

async function readByTool(
  setting: InspectSetting,
  input: Input,
  command: string,
  args: readonly string[],
): Promise<Sample> {
  const file = setting[input];
  if (setting.cache === "cold") dropFromCache([file]);
  const { ms, cpuMs } = await runTool(command, [...args, file]);
  return { moveMs: ms, syncMs: 0, wholeMs: ms, bytes: await allocatedBytes(file), toolCpuMs: cpuMs };
}

/**
 * Adds the dense stream, and QEMU's script.
 *
 * @param analyzer A path that the user named.
 */
export async function prepareInspect(
  setting: Setting,
  analyzer: string | undefined,
): Promise<InspectSetting> {
  await fs.access(RAMPORT).catch((cause: unknown) => {
    throw new Error(`${RAMPORT} is not there; npm run build makes it`, { cause });
  });
  const denseStream = path.join(setting.directory, "dense-stream");
  await writeDenseStream(setting.stream, denseStream);
  await timeSync(denseStream);
  return { ...setting, denseStream, analyzer: chooseAnalyzer(analyzer) };
}

function chooseAnalyzer(named: string | undefined): InspectSetting["analyzer"] {
  const python = spawnSync("python3", ["--version"]);
  if (python.status !== 0) return { missing: "no python3" };
  if (named !== undefined) return { path: named };
  const analyzer = findAnalyzer();
  if ("path" in analyzer) return analyzer;
  return { missing: analyzer.missing.split("\n").at(-1) ?? "not fetched" };
}
