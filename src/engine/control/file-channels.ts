import type { DirectIo } from "../../channels/index.js";
import { UsageError } from "../../errors/index.js";
import type { Capabilities, MigrationParameters } from "../../qapi/index.js";

/** @throws UsageError for multifd without mapped-ram: the engine has no channels over sockets. */
export function checkMultifd(capabilities: Capabilities): void {
  if (!capabilities.multifd || capabilities["mapped-ram"]) return;
  throw new UsageError("The engine has multifd for mapped-ram files only, not over several connections", {
    hint: "turn mapped-ram on and migrate to or from file:PATH, or turn multifd off",
  });
}

/** How many pieces of a mapped-ram file are in flight at a time; undefined without multifd. */
export function fileChannels(
  capabilities: Capabilities,
  parameters: MigrationParameters,
): number | undefined {
  return capabilities.multifd ? parameters["multifd-channels"] : undefined;
}

/** `migrate_direct_io` of QEMU: the parameter counts only where both capabilities are on. */
export function fileDirectIo(capabilities: Capabilities, parameters: MigrationParameters): DirectIo {
  const counts = capabilities["mapped-ram"] && capabilities.multifd;
  return counts && parameters["direct-io"] ? "required" : "off";
}
