import { parseFileWithOffset } from "../../channels/uri.js";
import { printable } from "../../errors/index.js";
import { restoreClone } from "../../session/clone/restore-clone.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes, duration } from "../format.js";
import { withQmp } from "./connect.js";

type Flags = CommonOptions & { readonly qmp: string; readonly then?: "run" | "pause" };

/** `ramport restore --mode clone`: for a QEMU that maps the snapshot already, as `ramport clone --print` says how. */
export async function restoreAsClone(file: string, options: Flags): Promise<void> {
  const { then } = options;
  const { path, offset } = parseFileWithOffset(file);
  const result = await withContext(options, (context) =>
    withQmp(options.qmp, context.signal, (qmp, qmpPath) =>
      restoreClone(qmp, path, {
        ...context,
        offset,
        ...(then === undefined ? {} : { then }),
        ...(qmpPath === undefined ? {} : { qmpPath }),
      }),
    ),
  );
  const { machine, ramBytes, mappedBytes, residualBytes, guest, restoreMs } = result;
  printResult(options, { mode: "clone", ...result }, [
    "Mode clone, as asked for: the QEMU's memory is the file, which must stay as it is while the QEMU runs",
    `Restored ${printable(machine)} with ${bytes(ramBytes)} of RAM in ${duration(restoreMs)}: ` +
      `${bytes(mappedBytes)} mapped, ${bytes(residualBytes)} sent`,
    `The guest is ${guest}`,
  ]);
}
