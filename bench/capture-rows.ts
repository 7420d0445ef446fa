import { type Capabilities, cpuMs, prepareSource, timeMigration } from "./guest.js";
import { settle } from "./page-cache.js";
import type { RamportJob } from "./ramport-process.js";
import type { Row } from "./row.js";
import { saveWithQemu, type SourceSetting, timeSync, withOutput } from "./rows.js";
import { runRamport, unlessRefused } from "./run-ramport.js";
import type { Sample } from "./sample.js";

/** The way everybody saves without mapped-ram. */
const EXEC = "QEMU exec:cat>FILE";
const MULTIFD = "QEMU mapped-ram, 2 channels";

/** Ways of capturing a stopped guest in a file. */
export const CAPTURE_ROWS: readonly Row<SourceSetting>[] = [
  { name: EXEC, measure: captureByQemu({}, (file) => `exec:cat>${file}`) },
  {
    name: "ramport save, stream",
    baseline: EXEC,
    comparisons: [{ of: EXEC, label: "exec:cat", atLeast: 1 }],
    measure: captureByRamport(),
  },
  ...[2, 4].map((channels): Row<SourceSetting> => ({
    name: `ramport save, stream, ${channels} channels`,
    baseline: EXEC,
    comparisons: [
      { of: EXEC, label: "exec:cat", atLeast: 1.5 },
      { of: MULTIFD, label: "mapped-ram 2", atLeast: 0.8 },
    ],
    measure: captureByRamport(channels),
  })),
  { name: "QEMU file:", baseline: EXEC, measure: captureByQemu({}, (file) => `file:${file}`) },
  {
    name: "QEMU mapped-ram",
    baseline: EXEC,
    measure: captureByQemu({ "mapped-ram": true }, (file) => `file:${file}`),
  },
  {
    name: MULTIFD,
    baseline: EXEC,
    measure: captureByQemu({ "mapped-ram": true, multifd: true }, (file) => `file:${file}`),
  },
];

/** Measures a save by QEMU alone. */
export function captureByQemu(
  on: Capabilities,
  uriOf: (file: string) => string,
): (setting: SourceSetting) => Promise<Sample> {
  return (setting) =>
    withOutput(setting.directory, async (file) => {
      const { source, dataBytes } = setting;
      await settle(setting, []);
      const cpuBefore = cpuMs(source);
      const moveMs = await saveWithQemu(source, on, uriOf(file));
      const qemuCpuMs = cpuMs(source) - cpuBefore;
      const syncMs = await timeSync(file);
      return { moveMs, syncMs, wholeMs: moveMs + syncMs, bytes: dataBytes, qemuCpuMs };
    });
}

/**
 * Measures a save through ramport.
 *
 * @param channels Of multifd; one plain stream when not given.
 */
export function captureByRamport(channels?: number): (setting: SourceSetting) => Promise<Sample | string> {
  return (setting) =>
    withOutput(setting.directory, async (output) => {
      const { source, dataBytes: bytes } = setting;
      await prepareSource(source, {});
      const cpuBefore = cpuMs(source);
      const job: RamportJob = {
        kind: "save",
        qmpPath: source.qmpPath,
        output,
        ...(channels === undefined ? {} : { channels }),
      };
      await settle(setting, []);
      const saved = await unlessRefused(timeMigration(source, () => runRamport(job)));
      if (typeof saved === "string") return saved;
      const { wholeMs, syncMs } = saved.value;
      const qemuCpuMs = cpuMs(source) - cpuBefore;
      // ramport confirms over the return path when the file is on its device: QEMU's time has the sync in it.
      return { moveMs: saved.ms - syncMs, syncMs, wholeMs, bytes, qemuCpuMs, ramport: saved.value };
    });
}
