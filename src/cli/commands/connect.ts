import { parseQmpAddress } from "../../qmp/address.js";
import { QmpClient } from "../../qmp/client.js";

/** Connects to `--qmp`, runs the work and hangs up. */
export async function withQmp<T>(
  address: string,
  signal: AbortSignal,
  work: (qmp: QmpClient, qmpPath: string | undefined) => Promise<T>,
): Promise<T> {
  // A bare word is a socket in this directory.
  const parsed = /[:/]/.test(address) ? parseQmpAddress(address) : { path: address };
  const qmp = await QmpClient.connect(parsed, { signal });
  try {
    return await work(qmp, "path" in parsed ? parsed.path : undefined);
  } finally {
    await qmp.close();
  }
}
