import { createRequire } from "node:module";

/** What `query-version` answers, and the greeting says. */
export interface MonitorVersion {
  readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
  /** `ramport-` and its version: what tells it from a QEMU. */
  readonly package: string;
}

/** The QEMU whose commands, capabilities and parameters this monitor has. */
const QEMU = { major: 11, minor: 1, micro: 0 };

let version: MonitorVersion | undefined;

/** The version to report. */
export function monitorVersion(): MonitorVersion {
  version ??= { qemu: QEMU, package: `ramport-${ownVersion()}` };
  return version;
}

function ownVersion(): string {
  // By the package's own name, so that it does not matter where the build puts this file.
  const manifest = createRequire(import.meta.url)("ramport/package.json") as { readonly version: string };
  return manifest.version;
}
