import { printable } from "../../errors/index.js";
import { type SaveOptions, type SaveResult, saveVm } from "../../session/save.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes, duration } from "../format.js";
import { type TlsFlags, tlsFrom } from "../tls-options.js";
import { withQmp } from "./connect.js";

/** `ramport save`. */
export async function save(
  output: string,
  options: CommonOptions &
    TlsFlags & { readonly qmp: string } & Omit<
      SaveOptions,
      "signal" | "onProgress" | "onMessage" | "qmpPath" | "tls"
    >,
): Promise<void> {
  const tls = tlsFrom(options);
  const result = await withContext(options, (context) =>
    withQmp(options.qmp, context.signal, (qmp, qmpPath) =>
      saveVm(qmp, output, { ...options, ...context, ...tls, ...(qmpPath === undefined ? {} : { qmpPath }) }),
    ),
  );
  printResult(options, result, describe(output, result));
}

function describe(output: string, result: SaveResult): string[] {
  const { machine, ramBytes, fileBytes, allocatedBytes, guest, totalTimeMs, downtimeMs } = result;
  const times = [
    ...(totalTimeMs === undefined ? [] : [`in ${duration(totalTimeMs)}`]),
    ...(downtimeMs === undefined ? [] : [`guest stood still for ${duration(downtimeMs)}`]),
  ];
  return [
    `Saved ${printable(machine)} with ${bytes(ramBytes)} of RAM to ${output} (${["method " + result.method, ...times].join(", ")})`,
    `The file has ${bytes(fileBytes)} and takes ${bytes(allocatedBytes)} on disk; the guest is ${guest}`,
  ];
}
