/**
 * A real Linux in v86: it boots, computes and checks itself, and lives on in another emulator as if nothing had
 * happened. The tests share one boot, and each goes on from where the one before it ended.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ReadableFile } from "../../src/channels/file.js";
import { OutputFile } from "../../src/channels/output-file.js";
import { loadHost } from "../../src/engine/incoming/load-host.js";
import { saveHost } from "../../src/engine/outgoing/save-host.js";
import type { V86Host } from "../../src/hosts/v86/index.js";
import {
  createLinuxMachine,
  describeWithLinux,
  destroyLinuxMachine,
  linuxHostOptions,
} from "../support/linux-guest.js";
import type { LinuxMachine } from "../support/linux-guest.js";

const KEPT_MIB = 8;
const PAUSE = 0.2;

async function save(host: V86Host, file: string): Promise<void> {
  const out = OutputFile.create(file);
  try {
    await saveHost(host, out, { commit: () => out.commit() });
  } finally {
    out.discard();
  }
}

/** Changes each place in guest RAM that holds this text, in its first byte. */
function damage(host: V86Host, text: string): void {
  const [ram] = host.ramBlocks()[0]!.segments;
  const bytes = Buffer.from(ram!.buffer, ram!.byteOffset, ram!.length);
  for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + 1)) bytes[at]! ^= 1;
}

describeWithLinux("Debian's Linux in v86", (linux) => {
  const options = linuxHostOptions(linux, { keptMiB: KEPT_MIB, rewrittenMiB: 2, pauseSeconds: PAUSE });
  let folder: string;
  let file: string;
  let first: LinuxMachine;
  let second: LinuxMachine;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "ramport-linux-"));
    file = path.join(folder, "guest.ram");
    first = await createLinuxMachine(options);
    await first.host.run();
    await first.passes(3, 110_000);
  });

  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  test("boots, and finds its memory right", () => {
    expect(first.report.release).toMatch(/^\d+\.\d+\.\d+-.*686$/);
    expect(first.report.passes.map(({ id, pass }) => [id, pass])).toEqual(
      [1, 2, 3].map((pass) => [first.report.startId, pass]),
    );
  });

  test("goes on in another emulator: the same guest, its memory, its clock", async () => {
    await save(first.host, file);
    const last = first.report.passes.at(-1)!;
    await destroyLinuxMachine(first);

    // The second machine's output continues the first one's, in the middle of a line if need be: the report finds a
    // pass that is lost or repeated, another id, and a clock that goes back.
    second = await createLinuxMachine(options, first.report);
    await loadHost(second.host, ReadableFile.open(file));
    const started = performance.now();
    await second.host.run();
    // Each kept file is checked.
    const passes = await second.passes(KEPT_MIB);
    const seconds = (performance.now() - started) / 1000;
    expect(passes[0]).toMatchObject({ id: last.id, pass: last.pass + 1 });
    // Its sleeps end, and they last: the timer and the clock of the new machine agree.
    const [from, to] = [passes[0]!.uptimeSeconds, passes.at(-1)!.uptimeSeconds];
    expect(to - from).toBeGreaterThan((KEPT_MIB - 1) * PAUSE);
    // No jump: all that the guest's clock did since the last pass, it did while the guest ran.
    expect(to - last.uptimeSeconds).toBeLessThan(seconds + 5);
  });

  test("sees a changed byte", async () => {
    const last = second.report.passes.at(-1)!;
    const seen = expect(second.passes(1_000_000)).rejects.toThrow(/found wrong memory.*rewritten\./);
    // The end of each file that is written again. A write in the middle of a pass may be overwritten before it is seen.
    const timer = setInterval(() => damage(second.host, `guest=${last.id} number=`), 50);
    await seen.finally(() => clearInterval(timer));
    await expect(second.passes(1)).rejects.toThrow(/found wrong memory/);
  });
});
