/**
 * What the demo shows: a guest moves from one process to another while it runs, is saved while it runs, and goes on from
 * the file in a third.
 *
 * @module
 */

import { waitForMigration } from "../src/session/wait-migration.js";
import { restoreVm, saveVm } from "../src/session/index.js";
import { QmpClient } from "../src/qmp/index.js";
import { GuestOutput } from "./guest-output.js";
import type { DemoMachine, DemoMachines } from "./machines.js";
import { comparison, duration, mebibytes, type Screen } from "./screen.js";
import type { Workspace } from "./workspace.js";

const MIB = 1 << 20;
/** To see before the migration, and after each step. */
const PASSES = 3;
const DOWNTIME_LIMIT_MS = 300;
/** A guest that never comes to rest is stopped after so long. */
const SAVE_SECONDS = 3;

/**
 * Tells it.
 *
 * @throws MachineError when anything fails, or the guest finds anything wrong; CancelledError.
 */
export async function tellStory(
  screen: Screen,
  machines: DemoMachines,
  workspace: Workspace,
  signal: AbortSignal,
): Promise<void> {
  const guest = new GuestOutput();
  const see = (): Promise<void> =>
    guest.morePasses(PASSES, signal, () => screen.progress(`            pass ${guest.pass}`));

  const first = await machines.start(false);
  guest.follow(first);
  await see();
  const size = `${machines.memoryBytes / MIB} MiB`;
  screen.line(`1 boot      a PC with ${size} starts in a process of its own (${machines.kind})`);
  const rewritten = machines.rewrittenBytes / MIB;
  screen.line(`            guest ${guest.id} rewrites ${rewritten} MiB over and over, checking all it finds`);

  const second = await machines.start(true);
  const left = guest.pass;
  await move(screen, first, second, workspace.file("migration"), signal);
  await first.kill();
  guest.follow(second);
  await see();
  screen.line(`            it goes on in the second: ${guest.describeAfter(left)}`);

  const file = workspace.file("guest.ram");
  await save(screen, machines, second, file, signal);
  await second.kill();

  const third = await machines.start(true);
  guest.follow(third);
  const saved = guest.pass;
  const restored = await withQmp(third, (qmp) => restoreVm(qmp, file, { then: "run", signal }));
  await see();
  screen.line(
    `4 restore   a third process read the file in ${duration(restored.totalTimeMs)}; the guest is the same,`,
  );
  screen.line(`            and nothing it knew is lost: ${guest.describeAfter(saved)}`);
}

async function move(
  screen: Screen,
  from: DemoMachine,
  to: DemoMachine,
  socket: string,
  signal: AbortSignal,
): Promise<void> {
  const uri = `unix:${socket}`;
  await withQmp(to, (qmp) => qmp.execute("migrate-incoming", { uri }));
  const {
    ram,
    downtime = 0,
    "total-time": totalMs = 0,
  } = await withQmp(from, async (qmp) => {
    const capabilities = [{ capability: "return-path", state: true }];
    await qmp.execute("migrate-set-capabilities", { capabilities });
    await qmp.execute("migrate-set-parameters", { "downtime-limit": DOWNTIME_LIMIT_MS, "max-bandwidth": 0 });
    await qmp.execute("migrate", { uri });
    const onInfo = (info: { readonly ram?: { readonly transferred: number } }): void =>
      screen.progress(`2 move      ${mebibytes(info.ram?.transferred ?? 0)} so far`);
    return waitForMigration(qmp, onInfo, signal);
  });
  const { normal = 0, duplicate = 0, "dirty-sync-count": rounds = 0 } = ram ?? {};
  screen.line(
    `2 move      to another process while it ran: ${rounds} rounds over its memory in ${duration(totalMs)},`,
  );
  screen.line(
    `            ${normal} pages, ${duplicate} empty ones; it stood still for ${duration(downtime)}`,
  );
}

async function save(
  screen: Screen,
  { saveBandwidth }: DemoMachines,
  machine: DemoMachine,
  file: string,
  signal: AbortSignal,
): Promise<void> {
  const { saved, streamBytes } = await withQmp(machine, async (qmp) => {
    const result = await saveVm(qmp, file, {
      live: true,
      stopAfterSeconds: SAVE_SECONDS,
      maxBandwidth: saveBandwidth,
      signal,
      onProgress: ({ transferredBytes, dirtySyncCount = 0 }) =>
        screen.progress(`3 save      round ${dirtySyncCount}, ${mebibytes(transferredBytes)} so far`),
    });
    const { ram } = await qmp.execute("query-migrate");
    // What the pages would have taken as records of a stream: each time that one was written counts.
    const { normal = 0, duplicate = 0 } = ram ?? {};
    return { saved: result, streamBytes: normal * (8 + 4096) + duplicate * (8 + 1) };
  });
  const rate = `${saveBandwidth / MIB} MiB/s`;
  screen.line(
    `3 save      while it ran on, for ${duration(saved.totalTimeMs ?? 0)} at ${rate}: each page has one place`,
  );
  screen.line();
  for (const line of comparison(streamBytes, saved.fileBytes, saved.allocatedBytes)) screen.line(line);
  screen.line();
}

async function withQmp<T>(machine: DemoMachine, use: (qmp: QmpClient) => Promise<T>): Promise<T> {
  const qmp = await QmpClient.connect({ path: machine.qmpPath });
  try {
    return await use(qmp);
  } finally {
    await qmp.close();
  }
}
