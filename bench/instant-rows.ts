import fs from "node:fs";
import path from "node:path";

import { planClone } from "../src/session/index.js";
import { findQemu, type QemuMachine, startQemu, type StartQemuOptions } from "../tests/support/qemu.js";
import { MachineError } from "../src/errors/index.js";
import { type Capabilities, configure } from "./guest.js";
import type { InstantGoal } from "./instant-report.js";
import { type InstantSample, InstantWatch } from "./instant-sample.js";
import type { InstantSetting } from "./instant-setting.js";
import { settle } from "./page-cache.js";
import type { Row } from "./row.js";
import { runRamport, unlessRefused } from "./run-ramport.js";

/** A row of the instant-restore tables. */
export interface InstantRow extends Row<InstantSetting, InstantSample> {
  readonly goals?: readonly InstantGoal[];
}

type Prefetch = "before" | "after" | "off";

const GIB = 2 ** 30;
const EAGER = "QEMU mapped-ram";
const MULTIFD = "QEMU mapped-ram, 2 channels";
const LAZY = "ramport restore --lazy";
const CLONE = "ramport clone";

const RESIDENT: InstantGoal = {
  label: "all resident, times QEMU mapped-ram's",
  of: EAGER,
  ratio: (own, eager) => own.residentMs / eager.residentMs,
  atMost: 1.5,
};

/** Ways of getting a saved guest to run again. */
export const INSTANT_ROWS: readonly InstantRow[] = withComparisons([
  { name: EAGER, measure: loadByQemu({ "mapped-ram": true }) },
  { name: MULTIFD, measure: loadByQemu({ "mapped-ram": true, multifd: true }) },
  {
    name: LAZY,
    goals: [
      sooner(MULTIFD, 10, 2 * GIB),
      sooner(MULTIFD, 30, 6 * GIB),
      {
        label: "first output, times that with 2 GiB",
        of: LAZY,
        ratio: (own, small) => own.firstOutputMs / small.firstOutputMs,
        memoryBytes: 6 * GIB,
        otherMemoryBytes: 2 * GIB,
        atMost: 1.5,
      },
      RESIDENT,
    ],
    measure: restoreLazily("off"),
  },
  ...(["before", "after"] as const).map((prefetch): InstantRow => {
    const name = `${LAZY}, working set ${prefetch} it runs`;
    return {
      name,
      goals: [
        {
          label: "first pass, times a later one",
          of: name,
          ratio: ({ passMs, laterPassMs }) => passMs / laterPassMs,
          atMost: 1.3,
        },
        RESIDENT,
      ],
      measure: restoreLazily(prefetch),
    };
  }),
  { name: CLONE, goals: [sooner(MULTIFD, 50)], measure: startClone },
]);

/** So that `--only` takes the rows of the goals too. */
function withComparisons(rows: readonly InstantRow[]): readonly InstantRow[] {
  return rows.map((row) => ({ ...row, comparisons: row.goals ?? [] }));
}

function sooner(of: string, atLeast: number, memoryBytes?: number): InstantGoal {
  return {
    label: `first output, times as soon as ${of}`,
    of,
    ratio: (own, other) => other.firstOutputMs / own.firstOutputMs,
    atLeast,
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
  };
}

async function withMachine<T>(
  options: StartQemuOptions,
  use: (machine: QemuMachine, qemuStartMs: number) => Promise<T>,
): Promise<T> {
  const begin = performance.now();
  const machine = await startQemu({ ...options, incoming: "defer" });
  try {
    return await use(machine, performance.now() - begin);
  } finally {
    await machine.kill();
  }
}

function loadByQemu(on: Capabilities): InstantRow["measure"] {
  return async (setting) => {
    await settle(setting, [setting.mapped]);
    return withMachine(setting.machine, async (machine, qemuStartMs) => {
      await configure(machine, on);
      const watch = new InstantWatch(machine);
      watch.start();
      await machine.qmp("migrate-incoming", { uri: `file:${setting.mapped}` });
      return { ...(await watch.finish()), qemuStartMs };
    });
  };
}

/** The working set is recorded by the first round, which is not counted. */
function restoreLazily(prefetch: Prefetch): InstantRow["measure"] {
  return async (setting) => {
    await settle(setting, [setting.mapped]);
    return withMachine(setting.machine, async (machine, qemuStartMs) => {
      await configure(machine, {});
      const watch = new InstantWatch(machine);
      let ramportStartMs = NaN;
      const begin = performance.now();
      const job = {
        kind: "lazy",
        qmpPath: machine.qmpPath,
        input: setting.mapped,
        prefetch,
        workingSet: `${setting.mapped}.${prefetch}.ws`,
      } as const;
      const watched = watch.finish();
      watched.catch(() => undefined);
      try {
        const outcome = await unlessRefused(
          runRamport(job, () => {
            ramportStartMs = performance.now() - begin;
            watch.start();
          }),
        );
        if (typeof outcome === "string") return outcome;
        return { ...(await watched), ramportCpuMs: outcome.cpuMs, qemuStartMs, ramportStartMs };
      } finally {
        watch.cancel();
      }
    });
  };
}

/** Preparing its command line and its residual stream counts as starting ramport; QEMU then is a process that waits, as in the others. */
async function startClone(setting: InstantSetting): Promise<InstantSample> {
  await settle(setting, [setting.mapped]);
  const begin = performance.now();
  const qemu = findQemu(setting.machine.version);
  if (!qemu.found) throw new MachineError("not-capable", qemu.reason);
  const residualPath = path.join(setting.directory, "residual");
  const memory = ["-machine", "pc", "-m", `${setting.machine.memoryBytes / 2 ** 20}M`];
  try {
    const { argv } = await planClone(setting.mapped, {
      argv: [qemu.command, ...qemu.args, ...memory],
      residualPath,
      replace: true,
    });
    const ramportStartMs = performance.now() - begin;
    const machine = { ...setting.machine, ...mappedMemory(argv) };
    return await withMachine(machine, async (clone, qemuStartMs) => {
      await configure(clone, {});
      const watch = new InstantWatch(clone);
      watch.start();
      await clone.qmp("migrate-incoming", { uri: `file:${residualPath}` });
      return { ...(await watch.finish()), qemuStartMs, ramportStartMs };
    });
  } finally {
    fs.rmSync(residualPath, { force: true });
  }
}

/** What ramport put into a command line that had a machine type alone. */
function mappedMemory(argv: readonly string[]): Pick<StartQemuOptions, "args"> {
  const added = argv.flatMap((argument, index) =>
    ["-object", "-machine"].includes(argument) ? [[argument, argv[index + 1] ?? ""]] : [],
  );
  return { args: added.slice(1).flat() };
}
