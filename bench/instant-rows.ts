import { startQemu } from "../tests/support/qemu.js";
import { type Capabilities, configure } from "./guest.js";
import type { InstantGoal } from "./instant-report.js";
import { type InstantSample, InstantWatch } from "./instant-sample.js";
import type { InstantSetting } from "./instant-setting.js";
import { settle } from "./page-cache.js";
import type { Row } from "./row.js";

/** A row of the instant-restore tables. */
export interface InstantRow extends Row<InstantSetting, InstantSample> {
  readonly goals?: readonly InstantGoal[];
}

const EAGER = "QEMU mapped-ram";
const MULTIFD = "QEMU mapped-ram, 2 channels";

/** Ways of getting a saved guest to run again. */
export const INSTANT_ROWS: readonly InstantRow[] = [
  { name: EAGER, measure: loadByQemu({ "mapped-ram": true }) },
  { name: MULTIFD, measure: loadByQemu({ "mapped-ram": true, multifd: true }) },
];

function loadByQemu(on: Capabilities): InstantRow["measure"] {
  return async (setting) => {
    const begin = performance.now();
    const machine = await startQemu({ ...setting.machine, incoming: "defer" });
    const qemuStartMs = performance.now() - begin;
    try {
      await configure(machine, on);
      const watch = new InstantWatch(machine);
      settle(setting, [setting.mapped]);
      watch.start();
      await machine.qmp("migrate-incoming", { uri: `file:${setting.mapped}` });
      return { ...(await watch.finish()), qemuStartMs };
    } finally {
      await machine.kill();
    }
  };
}
