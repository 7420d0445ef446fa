/** The command line as its users meet it: help, errors, exit codes. */

import { spawnSync } from "node:child_process";
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";

import { RamFlag } from "../../src/wire/index.js";
import { buildStream, pageContent } from "../support/stream-builder.js";
import {
  CLI_MAIN,
  type CliResult,
  type CliRun,
  ramport,
  ramportJson,
  startRamport,
} from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const COMMANDS = [
  "save",
  "restore",
  "clone",
  "seal",
  "receive",
  "send",
  "info",
  "inspect",
  "verify",
  "extract",
  "convert",
  "copy",
  "diff",
  "map",
  "working-set",
];

/** One sentence on standard error, no stack. */
function expectOneSentence(stderr: string): void {
  expect(stderr).toMatch(/^ramport: [^\n]+\n$/);
  expect(stderr).not.toMatch(/ {4}at |\.js:\d|internal error/);
}

describe("help", () => {
  test("ramport --help names the commands and the exit codes", async () => {
    const { code, stdout, stderr } = await ramport(["--help"]);
    expect(code).toBe(0);
    expect(stderr).toBe("");
    for (const command of COMMANDS) expect(stdout).toMatch(new RegExp(`^ {2}${command} `, "m"));
    expect(stdout).toMatch(/Exit codes: 0 fine, 1 bad file or stream, 2 wrong usage, 3 .*, 130 cancelled/);
  });

  test.each(COMMANDS)("ramport %s --help has examples", async (command) => {
    const { code, stdout } = await ramport([command, "--help"]);
    expect(code).toBe(0);
    const [, examples = ""] = stdout.split("Examples:\n");
    expect(examples.match(/^ {2}\$ .*ramport /gm)?.length).toBeGreaterThanOrEqual(2);
    expect(examples).toContain(`ramport ${command} `);
  });

  test("--version is the package's", async () => {
    const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
      version: string;
    };
    expect(await ramport(["--version"])).toMatchObject({ code: 0, stdout: `${manifest.version}\n` });
    expect(await ramport(["-V"])).toMatchObject({ code: 0, stdout: `${manifest.version}\n` });
  });
});

describe("wrong usage exits with 2", () => {
  test.each([
    ["an unknown option", ["save", "--qmp", "q", "--frobnicate", "x"], /unknown option '--frobnicate'/],
    ["an unknown command", ["frobnicate"], /unknown command/],
    ["a missing argument", ["receive", "unix:x"], /missing required argument 'out'/],
    ["no --qmp", ["save", "x"], /required option '--qmp/],
    ["too many arguments", ["send", "a", "b", "c"], /too many arguments/],
    ["a method that does not exist", ["save", "--qmp", "q", "--method", "x", "o"], /Allowed choices/],
    ["--run with --paused", ["restore", "--qmp", "q", "--run", "--paused", "f"], /cannot be used with/],
    [
      "a number that is none",
      ["save", "--qmp", "q", "--channels", "many", "o"],
      /whole number from 1 to 255/,
    ],
    ["no channel", ["save", "--qmp", "q", "--channels", "0", "o"], /whole number/],
    ["a negative time", ["save", "--qmp", "q", "--stop-after", "-1", "o"], /takes seconds/],
    ["bytes of a strange unit", ["save", "--qmp", "q", "--max-bandwidth", "5X", "o"], /takes bytes/],
    ["a URI that is none", ["receive", "rdma:host:1", "out"], /no migration URI/],
    ["sending into a file", ["send", "FILE", "file:x"], /not into a file/],
    ["an address that is none", ["save", "--qmp", "tcp:nowhere", "o"], /not the address/],
  ])("%s", async (_what, args, message) => {
    const file = workDir.file("vm.ram");
    if (args.includes("FILE")) await writeSnapshot(file);
    const result = await ramport(
      args.map((arg) => (arg === "FILE" ? file : arg)),
      { cwd: workDir.path },
    );
    expect(result.stderr).toMatch(message);
    expect(result.code).toBe(2);
    expect(result.stdout).toBe("");
    expect(result.stderr).not.toMatch(/ {4}at /);
  });

  test("an output that exists", async () => {
    const out = workDir.file("out");
    writeFileSync(out, "mine");
    const result = await ramport(["receive", "file:nothing", out]);
    expect(result.code).toBe(2);
    expectOneSentence(result.stderr);
    expect(readFileSync(out, "utf8")).toBe("mine");
  });
});

describe("a bad stream exits with 1", () => {
  test("and is told in one sentence; --verbose tells more", async () => {
    const stream = workDir.file("stream");
    writeFileSync(stream, buildStream().bytes.subarray(0, 9000));
    const args = ["receive", `file:${stream}`, workDir.file("out")];
    const result = await ramport(args);
    expect(result).toMatchObject({ code: 1, stdout: "" });
    expectOneSentence(result.stderr);
    expect(result.stderr).toMatch(/offset 9000/);
    expect(readdirSync(workDir.path)).toEqual(["stream"]);
    expect((await ramport([...args, "--verbose"])).code).toBe(1);
  });

  test("sent or restored, it goes nowhere", async () => {
    const file = workDir.file("vm.ram");
    writeFileSync(file, "no snapshot at all");
    const result = await ramport(["send", file, `unix:${workDir.file("nobody")}`]);
    expect(result.code).toBe(1);
    expectOneSentence(result.stderr);
  });
});

describe("a machine, file or network that fails exits with 3", () => {
  test.each([
    ["no QMP socket", ["save", "--qmp", "/nowhere/qmp", "out"], /no socket at/],
    ["a file that is not there", ["send", "nothing", "unix:x"], /does not exist/],
    ["a stream that is not there", ["receive", "file:nothing", "out"], /does not exist/],
    ["an output in no folder", ["receive", "-", "no/folder/out"], /does not exist/],
  ])("%s", async (_what, args, message) => {
    const result = await ramport(args, { cwd: workDir.path });
    expect(result.code).toBe(3);
    expectOneSentence(result.stderr);
    expect(result.stderr).toMatch(message);
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test("nobody who listens", async () => {
    const file = workDir.file("vm.ram");
    await writeSnapshot(file);
    const result = await ramport(["send", file, `unix:${workDir.file("nobody")}`]);
    expect(result.code).toBe(3);
    expectOneSentence(result.stderr);
  });

  test("--verbose names the cause", async () => {
    const result = await ramport(["receive", "file:nothing", "out", "--verbose"], { cwd: workDir.path });
    expect(result.code).toBe(3);
    expect(result.stderr).toMatch(/caused by: .*ENOENT/);
  });
});

/** Takes a byte from a pipe, if there is one. */
function hasBytes(pipe: number): boolean {
  try {
    return readSync(pipe, new Uint8Array(1)) > 0;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return false;
    throw error;
  }
}

describe("Ctrl-C exits with 130 and leaves nothing", () => {
  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("receive on a socket, %s", async (signal) => {
    const run = startRamport(["receive", `unix:${workDir.file("in.sock")}`, workDir.file("out")]);
    await run.waitForMessage(/^Waiting for a migration to unix:.*in\.sock$/m);
    run.kill(signal);
    expect((await run.ended).code).toBe(130);
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test("receive from a pipe that says nothing", async () => {
    const fifo = workDir.file("fifo");
    spawnSync("mkfifo", [fifo]);
    // The shell holds the pipe open and passes it on; its own end does not matter.
    const script = `exec 3<>"$1"; shift; exec "$@" <&3`;
    const run = startRamport(["receive", "-", workDir.file("out")], {
      wrapper: ["sh", "-c", script, "sh", fifo],
    });
    await expect.poll(() => readdirSync(workDir.path).length).toBe(2);
    const startMs = performance.now();
    run.kill("SIGINT");
    expect((await run.ended).code).toBe(130);
    expect(performance.now() - startMs).toBeLessThan(10_000);
    expect(readdirSync(workDir.path)).toEqual(["fifo"]);
  });

  test("send into a pipe of which nobody reads more than the first byte", async () => {
    const file = workDir.file("vm.ram");
    await writeSnapshot(file, 2000);
    const fifo = workDir.file("fifo");
    spawnSync("mkfifo", [fifo]);
    const run = startRamport(["send", file, "-"], {
      wrapper: ["sh", "-c", `exec 3<>"$1"; shift; exec "$@" >&3`, "sh", fifo],
    });
    const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    await expect.poll(() => hasBytes(reader)).toBe(true);
    expect(run.result).toBeUndefined();
    run.kill("SIGINT");
    expect((await run.ended).code).toBe(130);
    closeSync(reader);
  });
});

describe("Ctrl-C where standard input or output is a file", () => {
  /** Sends SIGINT as soon as the descriptor's file has moved on a little. */
  async function interrupt(run: CliRun, moved: () => boolean): Promise<CliResult> {
    while (!moved() && run.result === undefined) await new Promise((resolve) => setTimeout(resolve, 1));
    run.kill("SIGINT");
    return run.ended;
  }

  test("send - > file, and receive - < file", async () => {
    const file = workDir.file("vm.ram");
    await writeLargeSnapshot(file, 60_000);
    const sent = workDir.file("sent");
    const stdout = openSync(sent, "w");
    const send = startRamport(["send", file, "-"], { stdout });
    expect(await interrupt(send, () => statSync(sent).size > 0)).toMatchObject({ code: 130 });
    closeSync(stdout);
    expect(statSync(sent).size).toBeLessThan(statSync(`${file}.stream`).size);

    const stdin = openSync(`${file}.stream`, "r");
    const receive = startRamport(["receive", "-", workDir.file("again.ram")], { stdin });
    const begun = (): boolean => {
      const part = readdirSync(workDir.path).find((name) => name.startsWith(".again.ram."));
      return part !== undefined && statSync(workDir.file(part)).size > 0;
    };
    expect(await interrupt(receive, begun)).toMatchObject({ code: 130 });
    closeSync(stdin);
    expect(readdirSync(workDir.path).filter((name) => name.includes("again"))).toEqual([]);
  });
});

describe("a stream that would speak to the terminal", () => {
  test("receive shows its machine's name with escapes", async () => {
    const stream = workDir.file("stream");
    writeFileSync(stream, buildStream({ machine: "pc\u001b]0;owned\u0007" }).bytes);
    const { code, stdout } = await ramport(["receive", `file:${stream}`, workDir.file("vm.ram")]);
    expect(code).toBe(0);
    expect(stdout).toContain("Received pc\\u{1b}]0;owned\\u{7} with");
    expect(stdout).not.toContain("\u001b");
  });
});

describe("pipes", () => {
  test("receive - and send - carry a snapshot through; slow readers are waited for", () => {
    const stream = workDir.file("stream");
    const pages = Array.from({ length: 1000 }, (_, page) => ({
      block: "pc.ram",
      page,
      fill: 1 + (page % 255),
    }));
    writeFileSync(stream, buildStream({ blocks: [["pc.ram", 1000]], pages }).bytes);
    const [first, second] = [workDir.file("first.ram"), workDir.file("second.ram")];
    const line =
      `cat "${stream}" | "${process.execPath}" "${CLI_MAIN}" receive - "${first}" && ` +
      `"${process.execPath}" "${CLI_MAIN}" send "${first}" - | (sleep 0.5; cat) | ` +
      `"${process.execPath}" "${CLI_MAIN}" receive - "${second}"`;
    const result = spawnSync("sh", ["-c", line], { encoding: "utf8" });
    expect(result.stderr).toMatch(/Sent .* nothing said whether it was loaded/);
    expect(result.status, result.stderr).toBe(0);
    expect(readFileSync(second).equals(readFileSync(first))).toBe(true);
  });

  test("send into a pipe whose reader goes away exits with 3", async () => {
    const file = workDir.file("vm.ram");
    await writeSnapshot(file, 2000);
    const result = spawnSync(
      "sh",
      [
        "-c",
        `{ "${process.execPath}" "${CLI_MAIN}" send "${file}" -; echo "code $?" >&2; } | head -c 100 > /dev/null`,
      ],
      { encoding: "utf8" },
    );
    expect(result.stderr).toMatch(/code 3/);
    expect(result.stderr).toMatch(/^ramport: [^\n]*closed[^\n]*$/m);
  });

  test("results go to standard output, and only they", async () => {
    const stream = workDir.file("stream");
    writeFileSync(stream, buildStream().bytes);
    const result = await ramportJson(["receive", `file:${stream}`, workDir.file("vm.ram")]);
    expect(result).toEqual({
      path: workDir.file("vm.ram"),
      machine: "pc-i440fx-10.0",
      ramBytes: 75 * 4096,
      fileBytes: expect.any(Number) as number,
      allocatedBytes: expect.any(Number) as number,
      pages: { normal: 4, zero: 1 },
      receivedBytes: buildStream().bytes.length,
    });
  });
});

async function writeSnapshot(file: string, pages = 10): Promise<void> {
  const stream = `${file}.stream`;
  writeFileSync(
    stream,
    buildStream({
      blocks: [["pc.ram", pages]],
      pages: Array.from({ length: pages }, (_, page) => ({ block: "pc.ram", page, fill: 7 })),
    }).bytes,
  );
  await ramportJson(["receive", `file:${stream}`, file]);
}

/** As {@link writeSnapshot}, without a buffer for each page. */
async function writeLargeSnapshot(file: string, pages: number): Promise<void> {
  const first = { block: "pc.ram", page: 0, fill: 7 };
  const { bytes, places } = buildStream({ blocks: [["pc.ram", pages]], pages: [first] });
  const record = Buffer.concat([Buffer.alloc(8), pageContent(7)]);
  const records = Buffer.alloc((pages - 1) * record.length);
  for (let page = 1; page < pages; page++) {
    record.writeBigUInt64BE(BigInt(page * 4096 + RamFlag.PAGE + RamFlag.CONTINUE));
    record.copy(records, (page - 1) * record.length);
  }
  writeFileSync(
    `${file}.stream`,
    Buffer.concat([bytes.subarray(0, places.partEnd), records, bytes.subarray(places.partEnd)]),
  );
  await ramportJson(["receive", `file:${file}.stream`, file]);
}
