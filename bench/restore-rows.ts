import { type Capabilities, configure, cpuMs, timeMigration } from "./guest.js";
import { settle } from "./page-cache.js";
import type { RamportJob } from "./ramport-process.js";
import type { Row } from "./row.js";
import { type Setting, withDestination } from "./rows.js";
import { runRamport, unlessRefused } from "./run-ramport.js";
import type { Sample } from "./sample.js";

const MULTIFD = "QEMU mapped-ram, 2 channels";

/** Ways of loading a file into a QEMU. */
export const RESTORE_ROWS: readonly Row<Setting>[] = [
  { name: MULTIFD, measure: loadByQemu({ "mapped-ram": true, multifd: true }, "mapped") },
  { name: "QEMU mapped-ram", baseline: MULTIFD, measure: loadByQemu({ "mapped-ram": true }, "mapped") },
  { name: "QEMU exec:cat STREAM", baseline: MULTIFD, measure: loadByQemu({}, "stream") },
  { name: "ramport restore, send", baseline: MULTIFD, measure: loadByRamport() },
  ...[2, 4].map((channels): Row<Setting> => ({
    name: `ramport restore, send, ${channels} channels`,
    baseline: MULTIFD,
    comparisons: [{ of: MULTIFD, label: "mapped-ram 2", atLeast: 0.8 }],
    measure: loadByRamport(channels),
  })),
];

function loadByQemu(on: Capabilities, input: "mapped" | "stream"): Row<Setting>["measure"] {
  return (setting) =>
    withDestination(setting, async (destination): Promise<Sample> => {
      const file = setting[input];
      await configure(destination, on);
      const cpuBefore = cpuMs(destination);
      await settle(setting, [file]);
      const uri = input === "mapped" ? `file:${file}` : `exec:cat ${file}`;
      const { ms } = await timeMigration(destination, () => destination.qmp("migrate-incoming", { uri }));
      const qemuCpuMs = cpuMs(destination) - cpuBefore;
      return { moveMs: ms, syncMs: 0, wholeMs: ms, bytes: setting.dataBytes, qemuCpuMs };
    });
}

function loadByRamport(channels?: number): Row<Setting>["measure"] {
  return (setting) =>
    withDestination(setting, async (destination) => {
      await configure(destination, {});
      const cpuBefore = cpuMs(destination);
      const job: RamportJob = {
        kind: "restore",
        qmpPath: destination.qmpPath,
        input: setting.mapped,
        ...(channels === undefined ? {} : { channels }),
      };
      await settle(setting, [setting.mapped]);
      const loaded = await unlessRefused(timeMigration(destination, () => runRamport(job)));
      if (typeof loaded === "string") return loaded;
      const { wholeMs } = loaded.value;
      const qemuCpuMs = cpuMs(destination) - cpuBefore;
      const bytes = setting.dataBytes;
      return { moveMs: loaded.ms, syncMs: 0, wholeMs, bytes, qemuCpuMs, ramport: loaded.value };
    });
}
