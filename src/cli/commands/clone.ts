import { parseFileWithOffset } from "../../channels/uri.js";
import { MachineError, printable } from "../../errors/index.js";
import { cloneVms, planClone } from "../../session/clone/clone.js";
import type { RunningClones } from "../../session/clone/running-clones.js";
import { type CommandContext, type CommonOptions, printResult, withContext } from "../context.js";
import { bytes, duration } from "../format.js";

/** The options of `ramport clone`. */
export interface CloneFlags extends CommonOptions {
  readonly count?: number;
  readonly qmp?: string;
  readonly then?: "run" | "pause";
  readonly detach?: boolean;
  readonly print?: boolean;
  readonly residual?: string;
  readonly force?: boolean;
}

/** `ramport clone`. */
export async function clone(file: string, argv: readonly string[], flags: CloneFlags): Promise<void> {
  await withContext(flags, (context) =>
    flags.print === true ? print(file, argv, flags, context) : start(file, argv, flags, context),
  );
}

async function start(
  file: string,
  argv: readonly string[],
  flags: CloneFlags,
  { signal, onProgress, onMessage }: CommandContext,
): Promise<void> {
  const { path, offset } = parseFileWithOffset(file);
  const { count, qmp, then } = flags;
  const running = await cloneVms(path, {
    ...{ argv, offset, signal, onProgress, onMessage },
    ...(count === undefined ? {} : { count }),
    ...(qmp === undefined ? {} : { qmpPath: qmp }),
    ...(then === undefined ? {} : { then }),
  });
  printClones(running, flags);
  if (flags.detach === true) await running.release();
  else await stay(running, signal, onMessage);
}

function printClones({ clones, facts }: RunningClones, flags: CloneFlags): void {
  const { machine, ramBytes, mappedBytes, prepareMs } = facts;
  printResult(flags, { ...facts, clones }, [
    ...clones.map(
      ({ number, pid, qmpPath, guest, processStartMs, restoreMs }) =>
        `Clone ${number} is ${guest}: pid ${pid}, QMP ${qmpPath}, restored in ${duration(restoreMs)}, QEMU started in ${duration(processStartMs)}`,
    ),
    `${printable(machine)} with ${bytes(ramBytes)} of RAM, ${bytes(mappedBytes)} of it shared; checked in ${duration(prepareMs)}`,
  ]);
}

/** Waits until the clones have ended, by themselves or because this process is told to end. */
async function stay(
  running: RunningClones,
  signal: AbortSignal,
  onMessage: (message: string) => void,
): Promise<void> {
  let failed = 0;
  // What it fails with is heard below.
  const stop = (): void => void running.stop().catch(() => undefined);
  if (signal.aborted) stop();
  else signal.addEventListener("abort", stop, { once: true });
  for await (const { number, code, signal: name, words } of running.ended()) {
    if (signal.aborted) continue;
    const how = name === null ? `with exit status ${code}` : `by ${name}`;
    onMessage(`Clone ${number} ended ${how}${words === "" ? "" : `: ${words}`}`);
    if (code !== 0) failed += 1;
  }
  await running.stop();
  if (failed > 0) throw new MachineError("io", `${failed} of ${running.clones.length} clones failed`);
}

async function print(
  file: string,
  argv: readonly string[],
  { residual, force, ...flags }: CloneFlags,
  { signal, onProgress, onMessage }: CommandContext,
): Promise<void> {
  const { path, offset } = parseFileWithOffset(file);
  const planned = await planClone(path, {
    ...{ argv, offset, signal, onProgress, onMessage },
    residualPath: residual ?? `${path}.residual`,
    replace: force ?? false,
  });
  printResult(flags, planned, [planned.argv.map(quote).join(" ")]);
}

/** A word as a shell reads it. */
function quote(word: string): string {
  return /^[\w./:@%+,=-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
