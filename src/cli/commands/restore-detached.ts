import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import * as v from "valibot";

import { systemError } from "../../channels/system-error.js";
import { asError } from "../../errors/as-error.js";
import { CancelledError, MachineError } from "../../errors/index.js";
import type { LazyGuest, LazyRestoreResult } from "../../session/lazy-options.js";
import { type CommandContext, type CommonOptions, printResult, withContext } from "../context.js";
import { ExitCode, exitCodeOf } from "../exit-codes.js";
import { bytes } from "../format.js";
import { guestLine, resultLines } from "../lazy-words.js";

/** What the process that stays tells the one that started it. */
const reportSchema = v.variant("kind", [
  v.object({ kind: v.literal("message"), text: v.string() }),
  v.object({
    kind: v.literal("guest"),
    guest: v.picklist(["running", "paused"]),
    elapsedMs: v.number(),
    remainingBytes: v.number(),
  }),
  v.object({ kind: v.literal("failed"), text: v.string(), exitCode: v.number() }),
]);
type Report = v.InferOutput<typeof reportSchema>;

const LEFT_WAITING =
  "The restore was broken off: the guest waits for its memory until the same command is run again";
/** How often the log says how far it is. */
const LOG_EVERY_MS = 5000;

/**
 * `ramport restore --lazy --detach`: starts another process that serves the pages, and returns when the guest is there. That
 * process has a session of its own, so that neither a terminal nor Ctrl-C ends it.
 */
export async function restoreDetached(options: CommonOptions & { readonly log?: string }): Promise<void> {
  const logPath = path.resolve(
    options.log ?? path.join(os.tmpdir(), `ramport-restore-${randomBytes(4).toString("hex")}.log`),
  );
  // Started within: a signal that came between the start and its handling would leave a process that nobody knows of.
  const { server, report } = await withContext(options, async (context) => {
    const started = startServer(logPath);
    return { server: started, report: await untilGuest(started, logPath, context) };
  });
  if (report.kind === "failed") {
    process.stderr.write(`ramport: ${report.text}\n`);
    process.exitCode = report.exitCode;
    return;
  }
  const { guest, elapsedMs, remainingBytes } = report;
  const result = { mode: "lazy", guest, guestMs: elapsedMs, remainingBytes, pid: server.pid, log: logPath };
  printResult(options, result, [
    "Mode lazy, as asked for: the guest runs first, its memory follows",
    guestLine(report),
    `Process ${server.pid} sends it and ends when all ${bytes(remainingBytes)} are there; the file must stay as it is until then`,
    `Watch it: tail -f ${logPath}, or query-migrate in the QEMU, which then says completed`,
  ]);
}

/** Runs the same command once more, as the process that stays. */
function startServer(logPath: string): ChildProcess {
  const log = openLog(logPath);
  try {
    const [, program = "", ...args] = process.argv;
    const own = [...args.filter((arg) => arg !== "--detach"), "--detached-server"];
    return spawn(process.execPath, [...process.execArgv, program, ...own], {
      detached: true,
      stdio: ["ignore", log, log, "ipc"],
    });
  } finally {
    fs.closeSync(log);
  }
}

/**
 * Waits for the first report that ends the waiting. A signal ends the server too: then its end is waited for, as it may have
 * begun to say that the guest is there.
 *
 * @throws MachineError `io` when it ends without a word; CancelledError.
 */
async function untilGuest(
  server: ChildProcess,
  logPath: string,
  { signal, onMessage }: CommandContext,
): Promise<Exclude<Report, { readonly kind: "message" }>> {
  const stop = (): void => {
    server.kill("SIGTERM");
  };
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    return await new Promise((resolve, reject) => {
      server.once("error", (cause) => reject(systemError("Starting", process.execPath, cause)));
      let guest: Exclude<Report, { readonly kind: "message" }> | undefined;
      // Not before everything that it said has been read.
      server.once("close", (code, killedBy) => {
        // What had all of its memory when the signal came waits for none.
        if (guest !== undefined && code === 0) resolve(guest);
        if (signal.aborted) {
          reject(new CancelledError(guest === undefined ? undefined : LEFT_WAITING));
          return;
        }
        const hint = `its log says more: ${logPath}`;
        const message = `The process that was to serve the pages ended with ${code ?? killedBy}`;
        reject(new MachineError("io", message, { hint }));
      });
      server.on("message", (message) => {
        const report = v.parse(reportSchema, message);
        if (report.kind === "message") onMessage(report.text);
        else if (report.kind === "guest" && signal.aborted) guest = report;
        else resolve(report);
      });
    });
  } finally {
    signal.removeEventListener("abort", stop);
    server.removeAllListeners();
    if (server.connected) server.disconnect();
    server.unref();
  }
}

/** The process that stays: what it says goes to the log, and to whoever started it until the guest is there. */
export async function serveDetached(
  options: CommonOptions,
  serve: (context: CommandContext, onGuest: (guest: LazyGuest) => void) => Promise<LazyRestoreResult>,
): Promise<void> {
  const tell = (report: Report): void => {
    if (process.connected) process.send?.(report);
  };
  // Nobody waits for it any more: whoever started it may have been killed.
  process.on("error", () => undefined);
  let loggedAtMs = performance.now();
  try {
    const result = await withContext({ ...options, progress: false }, (context) => {
      const logging: CommandContext = {
        ...context,
        onMessage: (text) => {
          log(text);
          tell({ kind: "message", text });
        },
        onProgress: ({ phase, remainingBytes = 0 }) => {
          if (performance.now() - loggedAtMs < LOG_EVERY_MS) return;
          loggedAtMs = performance.now();
          log(`${phase}: ${bytes(remainingBytes)} left`);
        },
      };
      return serve(logging, (guest) => {
        log(guestLine(guest));
        tell({ kind: "guest", ...guest });
        if (process.connected) process.disconnect();
        // Ctrl-C goes to the terminal's processes, of which this is none; a terminal that closes is nothing to it.
        context.hearSignals((name) => name !== "SIGTERM");
      });
    });
    for (const line of resultLines(result)) log(line);
  } catch (error) {
    const text = asError(error).message;
    log(text);
    tell({ kind: "failed", text, exitCode: exitCodeOf(error) });
    process.exitCode = exitCodeOf(error);
  } finally {
    if (process.connected) process.disconnect();
  }
  process.exitCode ??= ExitCode.fine;
}

function log(text: string): void {
  process.stderr.write(`${new Date().toISOString()} ${text}\n`);
}

/** Appended to: the name may be one that the user keeps for it. */
function openLog(logPath: string): number {
  try {
    return fs.openSync(logPath, "a", 0o600);
  } catch (cause) {
    throw systemError("Opening", logPath, cause);
  }
}
