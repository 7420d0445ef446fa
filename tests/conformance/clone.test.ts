/** Clones: QEMUs whose memory is the snapshot itself. */

import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  renameSync,
  chmodSync,
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { buildBootSector } from "../../guests/boot-sector.js";
import { ReadableFile } from "../../src/channels/index.js";
import { openMappedRam, readPageBitmap } from "../../src/engine/index.js";
import { buildMultibootImage } from "../../guests/multiboot.js";
import { parseSerialReport } from "../../guests/serial-report.js";
import { CancelledError, FormatError, MachineError, UsageError } from "../../src/errors/index.js";
import { QmpClient } from "../../src/qmp/index.js";
import { cloneVms, planClone, restoreClone, type RunningClones, saveVm } from "../../src/session/index.js";
import { parseQemuCommandLine } from "../../src/session/clone/qemu-options.js";
import { convertSnapshot, sealSnapshot, snapshotInfo } from "../../src/snapshot/index.js";
import { corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import type { FoundQemu } from "../support/find-qemu.js";
import { readMappedRamContent } from "../support/mapped-ram-content.js";
import {
  expectGoesOn,
  guestMachine,
  guestState,
  type GuestState,
  migrationEnd,
  saveWithQemuAlone,
  WORKLOAD,
} from "../support/migrating-guest.js";
import { machineArgs, startQemu, type StartQemuOptions } from "../support/qemu.js";
import { ramport, ramportJson, startRamport } from "../support/ramport-cli.js";
import { SerialLog } from "../support/serial-log.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
// What clones leave behind is seen in a folder that nobody else uses.
beforeEach(() => vi.stubEnv("TMPDIR", workDir.path));
afterEach(() => vi.unstubAllEnvs());

const GIB = 2 ** 30;
const MIB = 1 << 20;

/** The command line of a machine whose serial output goes to `serial-{n}`. */
function commandLine(qemu: FoundQemu, machine: StartQemuOptions): string[] {
  for (const [name, value] of Object.entries(qemu.env)) vi.stubEnv(name, value);
  return [qemu.command, ...qemu.args, ...machineArgs(machine, workDir.file("serial-{n}"))];
}

interface Saved {
  readonly file: string;
  readonly state: GuestState;
}

/** Lets a guest run for a while, and QEMU write its snapshot. */
async function save(machine: StartQemuOptions, { live = true, passes = 2 } = {}): Promise<Saved> {
  const source = await startQemu(machine);
  await source.waitForPass(passes);
  await source.qmp("migrate-set-parameters", { "max-bandwidth": 0 });
  if (!live) await source.qmp("stop");
  const file = workDir.file("vm.ram");
  await saveWithQemuAlone(source, file);
  expect(await migrationEnd(source)).toBe("completed");
  const state = guestState(source);
  await source.kill();
  return { file, state };
}

/** Makes the serial files before the QEMUs do, so that nothing is missed. */
function followSerial(count: number): readonly SerialLog[] {
  return Array.from({ length: count }, (_, index) => new SerialLog(workDir.file(`serial-${index + 1}`)));
}

/** Each of them is the saved guest, checks its memory for some passes and finds it right. */
async function expectEachGoesOn(
  logs: readonly SerialLog[],
  { last, serialText }: GuestState,
  passes = 4,
): Promise<void> {
  await Promise.all(
    logs.map(async (log) => {
      const report = await log.waitForPass(last.pass + passes, 60_000);
      expect(report.id).toBe(last.id);
      // It came by migration, and went on from the moment of the snapshot: no pass is missing.
      expect(log.startId).toBeUndefined();
      parseSerialReport(serialText + log.text);
    }),
  );
}

/** Runs the test's part, and leaves no clone behind whatever happens. */
async function withClones(
  running: RunningClones,
  logs: readonly SerialLog[],
  use: () => Promise<void>,
): Promise<void> {
  try {
    await use();
  } finally {
    await running.stop();
    for (const log of logs) log.close(new Error("the test has ended"));
  }
}

/** What must not change: when the file was written to, where it holds data, and the data. */
function fingerprint(path: string): unknown {
  const { mtimeNs, size, ino } = statSync(path, { bigint: true });
  const file = ReadableFile.open(path);
  const hash = createHash("sha256");
  const buffer = new Uint8Array(MIB);
  for (let at = 0; ;) {
    const range = file.nextDataRange(at, file.sizeBytes);
    if (range === undefined) break;
    hash.update(JSON.stringify(range));
    for (at = range.start; at < range.end; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, range.end - at));
      file.readAt(piece, at);
      hash.update(piece);
    }
    at = range.end;
  }
  file.close();
  return { hash: hash.digest("hex"), mtimeNs, size, ino };
}

/** What is left of clones: their folders, and processes that have this test's folder in their arguments. */
function leftovers(): unknown {
  const ours = (pid: string): boolean => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(workDir.path);
    } catch {
      return false;
    }
  };
  return {
    folders: readdirSync(workDir.path).filter((name) => name.startsWith("ramport-clone-")),
    processes: readdirSync("/proc").filter(
      (name) => /^\d+$/.test(name) && name !== String(process.pid) && ours(name),
    ),
  };
}

const NOTHING = { folders: [], processes: [] };

describe.each(["10.0", "11.1"] as const)("clones", (version) => {
  describeWithQemu(version, "clones of a guest that was saved running", (qemu) => {
    test("three go on from the same moment, each by itself; the file stays as it is", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file, state } = await save(machine);
      await sealSnapshot(file);
      const before = fingerprint(file);
      const logs = followSerial(3);
      const running = await cloneVms(file, { argv: commandLine(qemu, machine), count: 3 });
      await withClones(running, logs, async () => {
        await expectEachGoesOn(logs, state, 6);
        expect(running.clones.map(({ number, guest }) => [number, guest])).toEqual([
          [1, "running"],
          [2, "running"],
          [3, "running"],
        ]);
        expect(running.facts).toMatchObject({ mappedBytes: machine.memoryBytes });
        // Its monitor is free for its user.
        const qmp = await QmpClient.connect(running.clones[1]!.qmpPath);
        expect(await qmp.execute("query-status")).toMatchObject({ running: true });
        await qmp.close();
      });
      expect(fingerprint(file)).toEqual(before);
      expect(leftovers()).toEqual(NOTHING);
    });

    test("paused, and saved again: every page of every block is the snapshot's", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file } = await save(machine);
      await sealSnapshot(file);
      const running = await cloneVms(file, { argv: commandLine(qemu, machine), then: "pause" });
      await withClones(running, [], async () => {
        expect(running.clones).toMatchObject([{ guest: "paused" }]);
        const qmp = await QmpClient.connect(running.clones[0]!.qmpPath);
        await saveVm(qmp, workDir.file("again.ram"));
        await qmp.close();
      });
      const [again, saved] = [readMappedRamContent(workDir.file("again.ram")), readMappedRamContent(file)];
      expect(again.blocks).toEqual(saved.blocks);
      expect(again.devices).toEqual(saved.devices);
    });

    test("old bytes of zero pages: refused until it is sealed", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file, state } = await save(machine);
      await sealSnapshot(file);
      chmodSync(file, 0o600);
      spoilZeroPage(file);
      const argv = commandLine(qemu, machine);
      const refused = cloneVms(file, { argv });
      await expect(refused).rejects.toThrow(FormatError);
      await expect(refused).rejects.toThrow(/block pc.ram\); run: ramport seal /);
      expect(leftovers()).toEqual(NOTHING);
      expect(await sealSnapshot(file)).toMatchObject({ clearedBytes: 4096 });
      const logs = followSerial(1);
      const running = await cloneVms(file, { argv });
      await withClones(running, logs, () => expectEachGoesOn(logs, state));
    });

    test.each<[string, readonly string[], (qemu: readonly string[]) => readonly string[]]>([
      [
        "a named backend",
        ["-object", "memory-backend-ram,id=mem0,size=64M", "-machine", "memory-backend=mem0"],
        (argv) => argv,
      ],
      [
        "NUMA nodes, one of them as JSON",
        [
          ...["-object", "memory-backend-ram,id=n0,size=32M", "-numa", "node,memdev=n0"],
          ...[
            "-object",
            '{"qom-type":"memory-backend-ram","id":"n1","size":33554432}',
            "-numa",
            "node,memdev=n1",
          ],
        ],
        (argv) => argv,
      ],
      ["-incoming and -S of an orchestrator's", [], (argv) => [...argv, "-incoming", "defer", "-S"]],
    ])("%s", async (_what, args, change) => {
      const machine = { ...guestMachine(workDir.path, { version }), memoryBytes: 64 * MIB, args };
      const { file, state } = await save(machine);
      await sealSnapshot(file);
      const logs = followSerial(1);
      const argv = change(commandLine(qemu, machine));
      const running = await cloneVms(file, { argv, ...(argv.includes("-S") ? { then: "run" } : {}) });
      await withClones(running, logs, async () => {
        expect(running.facts.mappedBytes).toBe(64 * MIB);
        await expectEachGoesOn(logs, state);
      });
    });

    test("a QEMU that waits with the snapshot as its memory is brought the rest", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file, state } = await save(machine);
      await sealSnapshot(file);
      const plain = await startQemu({ ...machine, incoming: "defer" });
      const unmapped = await QmpClient.connect(plain.qmpPath);
      await expect(restoreClone(unmapped, file)).rejects.toThrow(
        /None of this QEMU's memory is the snapshot/,
      );
      await unmapped.close();
      const refused = await ramport(["restore", file, "--qmp", plain.qmpPath, "--mode", "clone"]);
      expect(refused).toMatchObject({ stdout: "" });
      expect(refused.code).toBe(3);
      expect(refused.stderr).toMatch(/None of this QEMU's memory is the snapshot.*ramport clone --print/);
      await plain.kill();
      const argv = commandLine(qemu, machine);
      const planned = await planClone(file, { argv, residualPath: workDir.file("residual") });
      const added = planned.argv.slice(planned.argv.indexOf("-object"), -2);
      for (const [right, wrong] of [
        ["share=off,readonly=on,rom=off", "share=on"],
        [/offset=\d+/, "offset=0"],
      ] as const) {
        const args = [...machine.args!, ...added.map((word) => word.replace(right, wrong))];
        const other = await startQemu({ ...machine, args, incoming: "defer" });
        const qmp = await QmpClient.connect(other.qmpPath);
        await expect(restoreClone(qmp, file)).rejects.toThrow(/The memory of this QEMU is not the snapshot/);
        await qmp.close();
        await other.kill();
      }
      const waiting = await startQemu({ ...machine, args: [...machine.args!, ...added], incoming: "defer" });
      const qmp = await QmpClient.connect(waiting.qmpPath);
      const result = await restoreClone(qmp, file, { qmpPath: waiting.qmpPath });
      expect(result).toMatchObject({ guest: "running", mappedBytes: machine.memoryBytes });
      expect(result.residualBytes).toBe(planned.residualBytes);
      await qmp.close();
      await expectGoesOn(waiting, state);
      await waiting.kill();
      const other = await startQemu({ ...machine, args: [...machine.args!, ...added], incoming: "defer" });
      const clone = ["restore", file, "--qmp", other.qmpPath, "--mode", "clone"];
      const { restoreMs, ...same } = result;
      expect(restoreMs).toBeGreaterThan(0);
      expect(await ramportJson(clone)).toMatchObject({ ...same, mode: "clone" });
      await expectGoesOn(other, state);
      await other.kill();
      // The same content, and another file: nothing but the file that it has open tells.
      const late = await startQemu({ ...machine, args: [...machine.args!, ...added], incoming: "defer" });
      execFileSync("cp", ["-p", file, `${file}.new`]);
      renameSync(`${file}.new`, file);
      const replaced = await ramport(["restore", file, "--qmp", late.qmpPath, "--mode", "clone"]);
      expect(replaced.code).toBe(3);
      expect(replaced.stderr).toMatch(
        /This QEMU has mapped another file than the one that is at .*vm\.ram now/,
      );
    });

    test("q35, from a snapshot that begins later in its file", async () => {
      const machine = {
        ...guestMachine(workDir.path, { version, machine: "q35", args: [] }),
        guestImage: buildMultibootImage(WORKLOAD),
      };
      const { file, state } = await save(machine);
      const [later, offset] = [workDir.file("later, on.img"), 3 * MIB];
      await convertSnapshot(file, later, { to: "mapped-ram", outputOffset: offset });
      await sealSnapshot(later, { offset });
      const logs = followSerial(1);
      const running = await cloneVms(later, { argv: commandLine(qemu, machine), offset });
      await withClones(running, logs, () => expectEachGoesOn(logs, state));
    });

    test("a guest that was saved stopped: its clones are paused, or run when they are told to", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file, state } = await save(machine, { live: false });
      await sealSnapshot(file);
      const argv = commandLine(qemu, machine);
      const paused = await cloneVms(file, { argv });
      expect(paused.clones).toMatchObject([{ guest: "paused" }]);
      await paused.stop();
      const logs = followSerial(1);
      const running = await cloneVms(file, { argv, then: "run" });
      await withClones(running, logs, () => expectEachGoesOn(logs, state));
    });

    test("another machine: QEMU's own words, and no clone is left", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file } = await save(machine);
      await sealSnapshot(file);
      const argv = commandLine(qemu, { ...machine, args: ["-device", "VGA"] });
      const failing = cloneVms(file, { argv, count: 2 });
      await expect(failing).rejects.toThrow(MachineError);
      await expect(failing).rejects.toThrow(/^Clone [12]: QEMU's migration failed: .*e1000/);
      expect(leftovers()).toEqual(NOTHING);
      await expect(cloneVms(file, { argv: [...argv, "-device", "no-such"] })).rejects.toThrow(
        /^QEMU ended with exit status 1: .*no-such/,
      );
      expect(leftovers()).toEqual(NOTHING);
    });

    test("another file takes the snapshot's place before QEMU opens it: no clone is left", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file } = await save(machine);
      await sealSnapshot(file);
      const argv = commandLine(qemu, machine);
      const { program } = parseQemuCommandLine(argv);
      const late = workDir.file("late-qemu");
      const replace = `case "$*" in *mem-path=*) cp '${file}' '${file}.new' && mv -f '${file}.new' '${file}';; esac`;
      writeFileSync(late, `#!/bin/sh\n${replace}\nexec '${program.join("' '")}' "$@"\n`, { mode: 0o700 });
      await expect(cloneVms(file, { argv: [late, ...argv.slice(program.length)] })).rejects.toThrow(
        /vm\.ram was replaced or written to while it was cloned/,
      );
      expect(leftovers()).toEqual(NOTHING);
    });

    test("cancelled while they start: no clone is left", async () => {
      const machine = guestMachine(workDir.path, { version });
      const { file } = await save(machine);
      await sealSnapshot(file);
      const cancel = new AbortController();
      const starting = cloneVms(file, { argv: commandLine(qemu, machine), count: 4, signal: cancel.signal });
      // The first one has started: its serial file is there.
      await expect.poll(() => existsSync(workDir.file("serial-1"))).toBe(true);
      cancel.abort();
      await expect(starting).rejects.toThrow(CancelledError);
      expect(leftovers()).toEqual(NOTHING);
    });
  });
});

describeWithQemu("11.1", "clones of a libvirt image", (qemu) => {
  describeWithCorpus("made from libvirt's own", () => {
    test("go on; the image stays one", async () => {
      const machine = guestMachine(workDir.path, { version: "11.1" });
      const { file, state } = await save(machine);
      const image = workDir.file("guest.save");
      const libvirtHeader = corpusPath(corpusFile("lv113-sparse"));
      await convertSnapshot(file, image, { to: "mapped-ram", libvirtHeader });
      await sealSnapshot(image);
      const logs = followSerial(1);
      const running = await cloneVms(image, { argv: commandLine(qemu, machine) });
      await withClones(running, logs, () => expectEachGoesOn(logs, state));
      expect(await snapshotInfo(image)).toMatchObject({ container: "libvirt", complete: true });
    });
  });
});

describeWithQemu("7.2", "a QEMU that is too old", (qemu) => {
  test("is refused in words", async () => {
    const machine = guestMachine(workDir.path, { version: "7.2" });
    const file = workDir.file("vm.ram");
    const source = await startQemu(machine);
    await ramportJson(["save", "--qmp", source.qmpPath, file]);
    await source.kill();
    const refused = cloneVms(file, { argv: commandLine(qemu, machine) });
    await expect(refused).rejects.toThrow(/This QEMU is 7\.2\.\d+: .* came with 8\.2; use ramport restore/);
    expect(leftovers()).toEqual(NOTHING);
  });
});

describeWithQemu("10.0", "ramport clone", (qemu) => {
  const version = "10.0";

  async function sealed(): Promise<Saved & { readonly machine: StartQemuOptions; readonly argv: string[] }> {
    const machine = guestMachine(workDir.path, { version });
    const saved = await save(machine);
    await ramportJson(["seal", saved.file]);
    return { ...saved, machine, argv: commandLine(qemu, machine) };
  }

  test("says all that does not fit, before anything is started: exit 2", async () => {
    const { file, argv } = await sealed();
    const wrong = [...argv, "-M", "q35", "-m", "1G", "-serial", "stdio"];
    const result = await ramport(["clone", file, "--", ...wrong]);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toMatch(
      /^ramport: [^\n]*of q35, here pc-q35-10\.0: write -machine pc-i440fx-10\.0; -m 1G [^\n]*34824K[^\n]*; -serial stdio is for a terminal[^\n]*\n$/,
    );
    expect(leftovers()).toEqual(NOTHING);
  });

  test("stays until Ctrl-C, and ends its clones", async () => {
    const { file, state, argv } = await sealed();
    const logs = followSerial(2);
    const run = startRamport(["clone", file, "-n", "2", "--qmp", workDir.file("q{n}"), "--", ...argv]);
    await expectEachGoesOn(logs, state);
    await expect
      .poll(() => run.stdout.toString())
      .toMatch(/^Clone 1 is running: pid \d+, QMP [^\n]*q1, .*\nClone 2 /);
    run.kill("SIGINT");
    expect(await run.ended).toMatchObject({ code: 0, stderr: "" });
    expect(leftovers()).toEqual(NOTHING);
    for (const log of logs) log.close(new Error("the test has ended"));
  });

  test("a clone that ends badly is told of: exit 3 when all have ended", async () => {
    const { file, argv } = await sealed();
    const run = startRamport(["clone", file, "-n", "2", "--json", "--", ...argv]);
    await expect.poll(() => run.stdout.toString()).toMatch(/\}\n$/);
    const { clones } = JSON.parse(run.stdout.toString()) as { clones: { pid: number; qmpPath: string }[] };
    const qmp = await QmpClient.connect(clones[0]!.qmpPath);
    await qmp.execute("quit").catch(() => undefined);
    await run.waitForMessage(/^Clone 1 ended with exit status 0/m);
    process.kill(clones[1]!.pid, "SIGKILL");
    const result = await run.ended;
    expect(result.code).toBe(3);
    expect(result.stderr).toMatch(/\nClone 2 ended by SIGKILL.*\nramport: 1 of 2 clones failed\n$/);
    expect(leftovers()).toEqual(NOTHING);
  });

  test("--detach leaves them, with their sockets", async () => {
    const { file, state, argv } = await sealed();
    const logs = followSerial(1);
    const { stdout } = await ramport(["clone", file, "--detach", "--json", "--", ...argv]);
    const [clone] = (JSON.parse(stdout) as { clones: { pid: number; qmpPath: string }[] }).clones;
    try {
      await expectEachGoesOn(logs, state);
      const qmp = await QmpClient.connect(clone!.qmpPath);
      expect(await qmp.execute("query-status")).toMatchObject({ running: true });
      await qmp.execute("quit").catch(() => undefined);
      await expect.poll(() => existsSync(`/proc/${clone!.pid}`)).toBe(false);
    } finally {
      if (existsSync(`/proc/${clone!.pid}`)) process.kill(clone!.pid, "SIGKILL");
      logs[0]!.close(new Error("the test has ended"));
    }
  });

  test("--print: what it prints is a clone as soon as it runs", async () => {
    const { file, state, argv } = await sealed();
    const [log] = followSerial(1);
    const residual = workDir.file("the residual, stream");
    const { stdout } = await ramport(["clone", file, "--print", "--residual", residual, "--", ...argv]);
    const child = spawn("/bin/sh", ["-c", `exec ${stdout.replaceAll("{n}", "1")}`], { stdio: "ignore" });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    try {
      await expectEachGoesOn([log!], state);
    } finally {
      child.kill("SIGKILL");
      await ended;
      log!.close(new Error("the test has ended"));
    }
    await expect(planClone(file, { argv, residualPath: residual })).rejects.toThrow(UsageError);
  });
});

describeWithQemu("10.0", "16 clones of 2 GiB", (qemu) => {
  test("run at once from one file, and need little more memory than one", async () => {
    const COUNT = 16;
    const content = { start: 2 * MIB, end: 130 * MIB };
    const machine: StartQemuOptions = {
      version: "10.0",
      memoryBytes: 2 * GIB,
      workDir: workDir.path,
      guestImage: buildBootSector({
        staticRange: content,
        staticPagesPerPass: (content.end - content.start) / 4096,
        dirtyRange: { start: content.end, end: content.end + MIB },
        pauseLoops: 30_000_000,
      }),
    };
    const { file, state } = await save(machine);
    await sealSnapshot(file);
    const before = fingerprint(file);
    const logs = followSerial(COUNT);
    const running = await cloneVms(file, { argv: commandLine(qemu, machine), count: COUNT });
    await withClones(running, logs, async () => {
      // Each pass looks at all of the static range.
      await expectEachGoesOn(logs, state, 2);
      const used = running.clones.map(({ pid }) => memoryOf(pid));
      const sum = (key: keyof ProcessMemory): number => used.reduce((total, each) => total + each[key], 0);
      // What one alone would use: its own, and all that it maps of the snapshot.
      const one = used[0]!.rss;
      expect(one).toBeGreaterThan(128 * MIB);
      expect(sum("pss")).toBeLessThan(1.3 * one + sum("private"));
      // Of the content, none is anybody's own.
      expect(sum("private") / COUNT).toBeLessThan(64 * MIB);
    });
    expect(fingerprint(file)).toEqual(before);
  });
});

interface ProcessMemory {
  readonly rss: number;
  readonly pss: number;
  /** Of it, what was written: it is in no file and no other process. */
  readonly private: number;
}

function memoryOf(pid: number): ProcessMemory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}: +(\\d+) kB`, "m").exec(text)?.[1]) * 1024;
  return { rss: bytes("Rss"), pss: bytes("Pss"), private: bytes("Private_Dirty") };
}

/** Writes into the place of a page that is zero. */
function spoilZeroPage(path: string): void {
  const file = ReadableFile.open(path);
  const block = openMappedRam(file).blocks.find(({ name }) => name === "pc.ram")!;
  const page = readPageBitmap(file, block).nextClear(100);
  file.close();
  const fd = openSync(path, "r+");
  writeSync(fd, "old bytes", block.mapped!.pagesOffset + page * 4096 + 77);
  closeSync(fd);
}
