import { FormatError, UsageError } from "../../errors/index.js";
import {
  type Configuration,
  formatUuid,
  RAM_SECTION,
  type RamBlockEntry,
  targetPageSizeOf,
} from "../../wire/index.js";
import type { HostRamBlock, MigrationHost } from "../host.js";
import { IGNORE_SHARED_CAPABILITY } from "../mapped-ram/capability.js";

/** What the destination was told about the migration: both sides must have been told the same. */
export interface IncomingRules {
  /** `x-ignore-shared`. */
  readonly ignoreShared: boolean;
}

/** @throws UsageError when the guest runs: what it works on cannot be replaced. */
export function checkStopped({ running }: MigrationHost): void {
  if (running) throw new UsageError("The guest that is to be replaced is running", { hint: "stop it first" });
}

/** What `configuration_post_load` and `configuration_validate_capabilities` of QEMU look at. */
export function checkConfiguration(
  host: MigrationHost,
  configuration: Configuration | undefined,
  rules: IncomingRules,
): void {
  const section = "configuration";
  if (configuration?.machine !== host.machine) {
    throw new FormatError("unsupported", "The migration is of another machine", {
      section,
      expected: host.machine,
      actual: configuration?.machine ?? "none",
    });
  }
  const ignoreShared = configuration.capabilities.includes(IGNORE_SHARED_CAPABILITY);
  if (ignoreShared !== rules.ignoreShared) {
    throw new FormatError("inconsistent", "Source and destination do not agree on x-ignore-shared", {
      section,
      expected: rules.ignoreShared ? "on" : "off",
      actual: ignoreShared ? "on" : "off",
      hint: "set it the same on both sides",
    });
  }
  const pageSize = targetPageSizeOf(configuration);
  if (pageSize !== undefined) checkPageSize(host, pageSize);
  checkUuid(host, configuration.uuid);
}

/**
 * `vmstate_uuid_post_load` of QEMU: `validate-uuid` is the source's choice alone, which sends its UUID then. A machine
 * without one has nothing to compare.
 */
function checkUuid({ uuid }: MigrationHost, received: Uint8Array | undefined): void {
  if (uuid === undefined || received === undefined) return;
  if (uuid.every((byte, index) => byte === received[index])) return;
  throw new FormatError("inconsistent", "The migration is of a machine with another UUID", {
    section: "configuration",
    expected: formatUuid(uuid),
    actual: formatUuid(received),
  });
}

/** Target pages are what bitmaps and records count. */
export function checkPageSize(host: MigrationHost, pageSize: number, block?: string): void {
  if (pageSize === host.pageSize) return;
  throw new FormatError("unsupported", "The migration has another page size than the machine", {
    ...(block === undefined ? {} : { block }),
    expected: host.pageSize,
    actual: pageSize,
  });
}

/**
 * What `parse_ramblock` of QEMU looks at; and that no block of the machine is missing, which QEMU lets pass.
 *
 * @returns For each block of the migration its place in the host's list, and whether its pages travel.
 */
export function matchBlocks(
  host: MigrationHost,
  blocks: readonly Pick<RamBlockEntry, "name" | "usedLength" | "guestAddress">[],
  rules: IncomingRules,
): readonly { readonly index: number; readonly travels: boolean }[] {
  const own = host.ramBlocks();
  const missing = own.find(({ name }) => !blocks.some((block) => block.name === name));
  if (missing !== undefined) {
    throw new FormatError("inconsistent", "The migration lacks a RAM block of the machine", {
      section: RAM_SECTION.name,
      block: missing.name,
    });
  }
  return blocks.map((block) => matchBlock(own, block, rules));
}

function matchBlock(
  own: readonly HostRamBlock[],
  { name, usedLength, guestAddress }: Pick<RamBlockEntry, "name" | "usedLength" | "guestAddress">,
  { ignoreShared }: IncomingRules,
): { readonly index: number; readonly travels: boolean } {
  const place = { section: RAM_SECTION.name, block: name };
  const index = own.findIndex((block) => block.name === name);
  const target = own[index];
  if (target === undefined) {
    throw new FormatError("inconsistent", "The machine has no such RAM block", place);
  }
  if (target.usedLength !== usedLength) {
    throw new FormatError("inconsistent", "A RAM block of the machine has another length", {
      ...place,
      expected: target.usedLength,
      actual: usedLength,
      hint: "create the machine with the memory sizes that it was saved with",
    });
  }
  const shared = ignoreShared && target.shared === true;
  if (shared && guestAddress !== undefined && guestAddress !== (target.guestAddress ?? 0n)) {
    throw new FormatError("inconsistent", "A shared RAM block is at another guest address", {
      ...place,
      expected: target.guestAddress ?? 0n,
      actual: guestAddress,
    });
  }
  return { index, travels: !shared };
}
