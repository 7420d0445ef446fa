import { parseFileWithOffset } from "../../channels/uri.js";
import { printable, UsageError } from "../../errors/index.js";
import { type RestoreOptions, restoreVm } from "../../session/restore.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes, duration } from "../format.js";
import { type TlsFlags, tlsFrom } from "../tls-options.js";
import { withQmp } from "./connect.js";
import type { LazyFlags } from "./restore-lazy.js";

/** How a restore is done. */
export type RestoreMode = "eager" | "lazy" | "clone";

type EagerOptions = Omit<RestoreOptions, "signal" | "onProgress" | "onMessage" | "qmpPath" | "tls">;

/** Options as they are parsed. */
export type RestoreFlags = CommonOptions &
  TlsFlags &
  EagerOptions &
  LazyFlags & { readonly qmp: string; readonly mode?: RestoreMode; readonly lazy?: boolean };

const EAGER_ONLY: readonly (readonly [keyof EagerOptions, string])[] = [
  ["channels", "--channels"],
  ["directIo", "--direct-io"],
  ["multifdCompression", "--multifd-compression"],
];
const LAZY_ONLY: readonly (readonly [keyof LazyFlags, string])[] = [
  ["preempt", "--preempt"],
  ["rateLimit", "--rate-limit"],
  ["cluster", "--cluster"],
  ["prefetch", "--prefetch"],
  ["prefetchBudget", "--prefetch-budget"],
  ["workingSet", "--working-set"],
  ["detach", "--detach"],
  ["log", "--log"],
];

/** `ramport restore`. */
export async function restore(file: string, options: RestoreFlags): Promise<void> {
  const mode = chooseMode(options);
  if (mode === "lazy") {
    const { restoreLazily } = await import("./restore-lazy.js");
    await restoreLazily(file, options);
    return;
  }
  const tls = tlsFrom(options);
  const { path, offset } = parseFileWithOffset(file);
  const result = await withContext(options, (context) =>
    withQmp(options.qmp, context.signal, (qmp, qmpPath) =>
      restoreVm(qmp, path, {
        ...options,
        ...context,
        ...tls,
        streamOffset: offset,
        ...(qmpPath === undefined ? {} : { qmpPath }),
      }),
    ),
  );
  const { machine, ramBytes, method, guest, totalTimeMs } = result;
  const why = options.mode === undefined ? "the default: all memory is loaded first" : "as asked for";
  const hint =
    guest === "paused" ? ", as it was saved or asked for: continue it with cont, or restore with --run" : "";
  printResult(options, { mode, ...result }, [
    `Mode eager, ${why}${options.mode === undefined ? "; --lazy lets the guest run at once" : ""}`,
    `Restored ${printable(machine)} with ${bytes(ramBytes)} of RAM in ${duration(totalTimeMs)} (method ${method})`,
    `The guest is ${guest}${hint}`,
  ]);
}

/** @throws UsageError for options that belong to another mode. */
function chooseMode(options: RestoreFlags): Exclude<RestoreMode, "clone"> {
  const mode = options.mode ?? (options.lazy === true ? "lazy" : "eager");
  if (options.lazy === true && mode !== "lazy") {
    throw new UsageError(`--lazy and --mode ${mode} contradict each other`);
  }
  if (mode === "clone") {
    throw new UsageError("A clone has its memory mapped from the file when its QEMU starts", {
      hint: "ramport starts it: ramport clone FILE -- qemu-system-... ARGUMENTS",
    });
  }
  const given = new Map<string, unknown>(Object.entries(options));
  const foreign = (mode === "lazy" ? EAGER_ONLY : LAZY_ONLY).find(([name]) => given.get(name) !== undefined);
  const method = options.method ?? "auto";
  if (foreign !== undefined || (mode === "lazy" && method !== "auto")) {
    const name = foreign?.[1] ?? "--method";
    const other = mode === "lazy" ? "eager" : "lazy";
    throw new UsageError(`${name} belongs to --mode ${other}, and this is --mode ${mode}`);
  }
  return mode;
}
