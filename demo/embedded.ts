/**
 * The demo without any QEMU: a PC in this process, saved while it runs and restored into another one.
 *
 * @module
 */

import fs from "node:fs";

import { buildMultibootImage } from "../guests/multiboot.js";
import { ReadableFile } from "../src/channels/file.js";
import { OutputFile } from "../src/channels/output-file.js";
import { loadHost, type LoadHostResult } from "../src/engine/incoming/load-host.js";
import { saveHost, type SaveHostResult } from "../src/engine/outgoing/save-host.js";
import { MachineError } from "../src/errors/index.js";
import { V86Host } from "../src/hosts/v86/index.js";
import { GuestOutput } from "./guest-output.js";
import { comparison, duration, mebibytes, type Screen } from "./screen.js";

const MIB = 1 << 20;
const MEMORY_BYTES = 64 * MIB;
const REWRITTEN_BYTES = 28 * MIB;
/** Enough to write the rewritten memory several times: how a file or a stream grows is what is to be seen. */
const ROUNDS = 40;
/** To see before the save, and after the restore. */
const PASSES = 5;

/** Half a static picture that it checks, half memory that it rewrites; the rest stays zero. */
const GUEST = buildMultibootImage({
  staticRange: { start: MIB, end: 13 * MIB },
  dirtyRange: { start: 13 * MIB, end: 37 * MIB },
  togglingRange: { start: 37 * MIB, end: 41 * MIB },
});

/**
 * Runs it.
 *
 * @param file Path for the snapshot.
 * @throws MachineError when the guest finds anything wrong; CancelledError.
 */
export async function embeddedDemo(screen: Screen, file: string, signal: AbortSignal): Promise<void> {
  const machines: V86Host[] = [];
  try {
    await saveAndRestore(screen, file, signal, machines);
  } finally {
    // An emulator that runs on keeps the process alive.
    for (const machine of machines) await machine.destroy();
  }
}

async function saveAndRestore(
  screen: Screen,
  file: string,
  signal: AbortSignal,
  machines: V86Host[],
): Promise<void> {
  const guest = new GuestOutput();
  const waiting = (): void => screen.progress(`            ${guest.pass} passes so far`);
  screen.line(
    `1 boot      a PC with ${MEMORY_BYTES / MIB} MiB starts in this process (v86: no QEMU, no BIOS)`,
  );
  const first = await boot(guest, machines);
  await first.run();
  await guest.morePasses(PASSES, signal, waiting);
  screen.line(
    `            guest ${guest.id} rewrites ${REWRITTEN_BYTES / MIB} MiB over and over, checking all it finds`,
  );

  const before = guest.pass;
  const saved = await save(first, file, screen, signal);
  const after = guest.pass;
  screen.line(
    `2 save      while it ran on, from pass ${before} to pass ${after}: ${saved.rounds} rounds over its`,
  );
  screen.line(
    `            memory in ${duration(saved.totalMs)}; it stood still for the last ${duration(saved.downtimeMs)} only`,
  );
  screen.line();
  const allocatedBytes = fs.statSync(file).blocks * 512;
  for (const line of comparison(saved.streamBytes, saved.fileBytes, allocatedBytes)) screen.line(line);
  screen.line();

  const second = await boot(guest, machines);
  const loaded = await load(second, file, signal);
  screen.line(
    `3 restore   a fresh PC took ${mebibytes(loaded.readBytes)} from the file in ${duration(loaded.totalMs)};`,
  );
  screen.line(
    `            it and the stopped PC hold the same ${compareMemory(first, second)} bytes of memory`,
  );
  await first.destroy();
  await second.run();
  await guest.morePasses(PASSES, signal, waiting);
  screen.line(`4 go on     the first PC is gone; guest ${guest.id} goes on in the second one:`);
  screen.line(`            ${guest.describeAfter(after)}`);
}

async function boot(guest: GuestOutput, machines: V86Host[]): Promise<V86Host> {
  const host = await V86Host.create({ memoryBytes: MEMORY_BYTES, multiboot: GUEST });
  machines.push(host);
  host.onSerial((text) => guest.hear(text));
  return host;
}

async function save(
  host: V86Host,
  file: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<SaveHostResult> {
  const out = OutputFile.create(file);
  try {
    return await saveHost(host, out, {
      signal,
      maxRounds: ROUNDS,
      // A real save would stop the guest much earlier, as soon as the rest is short enough.
      downtimeLimitMs: 0,
      commit: () => out.commit(),
      onProgress: ({ dirtySyncCount = 0, transferredBytes }) =>
        screen.progress(
          `2 save      round ${dirtySyncCount} of ${ROUNDS}, ${mebibytes(transferredBytes)} so far`,
        ),
    });
  } finally {
    out.discard();
  }
}

async function load(host: V86Host, path: string, signal: AbortSignal): Promise<LoadHostResult> {
  const file = ReadableFile.open(path);
  try {
    return await loadHost(host, file, { signal });
  } finally {
    file.close();
  }
}

/** Returns how many bytes were compared. */
function compareMemory(one: V86Host, other: V86Host): number {
  const [a, b] = [one, other].map((host) => host.ramBlocks().flatMap(({ segments }) => segments));
  const same = a?.every((bytes, index) => Buffer.compare(bytes, b?.[index] ?? new Uint8Array()) === 0);
  if (same !== true) throw new MachineError("migration-failed", "The restored memory is not what was saved");
  return a?.reduce((sum, { length }) => sum + length, 0) ?? 0;
}
