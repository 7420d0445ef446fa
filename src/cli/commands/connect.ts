import { parseQmpAddress, type QmpAddress } from "../../qmp/address.js";
import { QmpClient, type QmpConnectOptions } from "../../qmp/client.js";

/** What `--qmp` names: a bare word is a socket in this directory. */
export function qmpAddressOf(text: string): QmpAddress {
  return /[:/]/.test(text) ? parseQmpAddress(text) : { path: text };
}

/** Connects to `--qmp`, runs the work and hangs up. */
export async function withQmp<T>(
  address: string,
  signal: AbortSignal,
  work: (qmp: QmpClient, qmpPath: string | undefined) => Promise<T>,
  options: Pick<QmpConnectOptions, "oob"> = {},
): Promise<T> {
  const parsed = qmpAddressOf(address);
  const qmp = await QmpClient.connect(parsed, { signal, ...options });
  try {
    return await work(qmp, "path" in parsed ? parsed.path : undefined);
  } finally {
    await qmp.close();
  }
}
