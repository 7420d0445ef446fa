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

/** What only one mode, or not all of them, has an option for. */
const OWN_OPTIONS: readonly (readonly [keyof RestoreFlags, string, ...RestoreMode[]])[] = [
  ["channels", "--channels", "eager"],
  ["directIo", "--direct-io", "eager"],
  ["multifdCompression", "--multifd-compression", "eager"],
  ["preempt", "--preempt", "lazy"],
  ["rateLimit", "--rate-limit", "lazy"],
  ["cluster", "--cluster", "lazy"],
  ["prefetch", "--prefetch", "lazy"],
  ["prefetchBudget", "--prefetch-budget", "lazy"],
  ["workingSet", "--working-set", "lazy"],
  ["detach", "--detach", "lazy"],
  ["log", "--log", "lazy"],
  ["via", "--via", "eager", "lazy"],
  ["tlsCredsX509", "--tls-creds-x509", "eager", "lazy"],
  ["tlsPsk", "--tls-psk", "eager", "lazy"],
  ["tlsHostname", "--tls-hostname", "eager", "lazy"],
  ["tlsUsername", "--tls-username", "eager", "lazy"],
];

/** `ramport restore`. */
export async function restore(file: string, options: RestoreFlags): Promise<void> {
  const mode = chooseMode(options);
  if (mode === "lazy") {
    const { restoreLazily } = await import("./restore-lazy.js");
    await restoreLazily(file, options);
    return;
  }
  if (mode === "clone") {
    const { restoreAsClone } = await import("./restore-clone.js");
    await restoreAsClone(file, options);
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
function chooseMode(options: RestoreFlags): RestoreMode {
  const mode = options.mode ?? (options.lazy === true ? "lazy" : "eager");
  if (options.lazy === true && mode !== "lazy") {
    throw new UsageError(`--lazy and --mode ${mode} contradict each other`);
  }
  const foreign = OWN_OPTIONS.find(
    ([name, , ...modes]) => options[name] !== undefined && !modes.includes(mode),
  );
  const otherMethod = mode !== "eager" && (options.method ?? "auto") !== "auto";
  if (foreign === undefined && !otherMethod) return mode;
  const [, name, ...modes] = foreign ?? ["method", "--method", "eager"];
  throw new UsageError(`${name} belongs to --mode ${modes.join(" and ")}, and this is --mode ${mode}`);
}
