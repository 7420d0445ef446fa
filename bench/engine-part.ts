import { existsSync } from "node:fs";

import type { QemuMachine } from "../tests/support/qemu.js";
import type { Comparison, Row } from "./row.js";
import { allocatedBytes } from "./rows.js";
import type { Sample } from "./sample.js";

/** What the module with the engine's rows has: it measures loads and saves of a machine in a process like this one. */
interface EngineModule {
  readonly ENGINE_ROWS: readonly EngineRow[];
  readonly prepareEngineRows: (memoryBytes: number, directory: string) => Promise<EngineSetting>;
}

interface EngineRow {
  readonly name: string;
  readonly baseline?: string;
  measure(setting: EngineSetting): Promise<EngineSample | string>;
}

interface EngineSample {
  readonly ms: number;
  readonly syncMs: number;
  readonly cpuMs?: number;
  readonly extraBytes?: number;
}

/** What the rows of the engine work with. */
export interface EngineSetting {
  readonly source: QemuMachine;
  readonly mapped: string;
}

const MODULE = new URL("engine-rows.ts", import.meta.url);
/** What direct I/O is to reach of fio's speed. */
const DIRECT_GOAL = 0.9;

/** The engine's rows and what prepares them, or why there are none. */
export async function loadEnginePart(): Promise<
  | {
      readonly rows: readonly Row<EngineSetting>[];
      readonly prepare: (memoryBytes: number, directory: string) => Promise<EngineSetting>;
    }
  | { readonly missing: string }
> {
  if (!existsSync(MODULE)) return { missing: "the engine's rows are not there (bench/engine-rows.ts)" };
  const { ENGINE_ROWS, prepareEngineRows } = (await import(MODULE.href)) as EngineModule;
  return { rows: ENGINE_ROWS.map((row) => adapt(row, ENGINE_ROWS)), prepare: prepareEngineRows };
}

function adapt(row: EngineRow, all: readonly EngineRow[]): Row<EngineSetting> {
  const { name, baseline } = row;
  return {
    name,
    ...(baseline === undefined
      ? {}
      : { baseline, comparisons: [{ of: baseline, label: "QEMU", atLeast: 1 }, ...besideFio(name, all)] }),
    async measure(setting) {
      const sample = await row.measure(setting);
      return typeof sample === "string"
        ? sample
        : toSample(name, sample, await allocatedBytes(setting.mapped));
    },
  };
}

/** Direct I/O of the engine is compared with what fio reaches of the same kind: its last row has the most in flight. */
function besideFio(name: string, all: readonly EngineRow[]): Comparison[] {
  const kind = /^engine (load|save) direct/.exec(name)?.[1];
  const fio = all.findLast((row) => row.name.startsWith(`fio ${kind ?? ""} direct`));
  return kind === undefined || fio === undefined
    ? []
    : [{ of: fio.name, label: "fio", atLeast: DIRECT_GOAL }];
}

function toSample(name: string, { ms, syncMs, cpuMs, extraBytes }: EngineSample, bytes: number): Sample {
  const times = { moveMs: ms, syncMs, wholeMs: ms + syncMs, bytes };
  if (cpuMs === undefined) return times;
  if (name.startsWith("QEMU")) return { ...times, qemuCpuMs: cpuMs };
  return { ...times, ramport: { cpuMs, peakBytes: extraBytes ?? 0 } };
}
