import { printable } from "../../errors/index.js";
import { type RestoreOptions, restoreVm } from "../../session/restore.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes, duration } from "../format.js";
import { type TlsFlags, tlsFrom } from "../tls-options.js";
import { withQmp } from "./connect.js";
import { parseFileWithOffset } from "../../channels/uri.js";

/** `ramport restore`. */
export async function restore(
  file: string,
  options: CommonOptions &
    TlsFlags & { readonly qmp: string } & Omit<
      RestoreOptions,
      "signal" | "onProgress" | "onMessage" | "qmpPath" | "tls"
    >,
): Promise<void> {
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
  const hint =
    guest === "paused" ? ", as it was saved or asked for: continue it with cont, or restore with --run" : "";
  printResult(options, result, [
    `Restored ${printable(machine)} with ${bytes(ramBytes)} of RAM in ${duration(totalTimeMs)} (method ${method})`,
    `The guest is ${guest}${hint}`,
  ]);
}
