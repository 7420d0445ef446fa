/**
 * Two toy machines: the first one's guest moves to the second while it runs, over a socket, and is then saved into a file
 * while it runs on from there.
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";

import { MigrationControl } from "ramport/engine";
import { openSnapshot } from "ramport/snapshot";
import { ToyVm } from "./toy-vm.js";

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "toy-"));
try {
  const source = new ToyVm();
  const destination = new ToyVm();
  await source.run();
  await passes(source, 5);

  // Live migration: what QEMU's monitor commands do, as calls.
  const uri = `unix:${folder}/socket`;
  const there = new MigrationControl(destination, { onLoaded: () => destination.run() });
  await there.incoming({ uri });
  const here = new MigrationControl(source);
  here.setCapabilities({ "return-path": true });
  here.setParameters({ "max-bandwidth": 0, "downtime-limit": 20 });
  await here.migrate({ uri });
  const failure = (await here.ended()) ?? (await there.ended());
  if (failure !== undefined) throw failure;
  const { downtime, ram } = here.info();
  console.log(`moved: ${ram?.normal} pages in ${ram?.["dirty-sync-count"]} rounds, downtime ${downtime} ms`);

  await passes(destination, source.passes + 5);
  console.log(
    `it went on from pass ${source.passes} to ${destination.passes}, ${destination.wrong} pages wrong`,
  );

  // A live snapshot: the same with a file as the destination.
  const file = `${folder}/toy.ram`;
  there.setCapabilities({ "mapped-ram": true });
  await there.migrate({ uri: `file:${file}` });
  const unsaved = await there.ended();
  if (unsaved !== undefined) throw unsaved;
  const snapshot = await openSnapshot(file);
  console.log(
    `saved: ${snapshot.blocks.map(({ name, usedLength }) => `${name}, ${usedLength} bytes`).join("; ")}`,
  );
  snapshot.close();

  process.exitCode = destination.wrong === 0 && destination.passes >= source.passes + 5 ? 0 : 1;
} finally {
  fs.rmSync(folder, { recursive: true });
}

async function passes(vm: ToyVm, count: number): Promise<void> {
  while (vm.passes < count) await nextTurn();
}
