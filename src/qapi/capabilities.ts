/**
 * The migration capabilities of QEMU 11.1 (QAPI's `MigrationCapability`), and which of them the engine has.
 *
 * The list is held to what a real QEMU 11.1 answers to `query-migrate-capabilities`. All are off by default. Of those
 * that older QEMUs have, `compress` and `block` left with QEMU 9.1; `zero-blocks` is still in 10.2.
 *
 * @module
 */

/** What the engine does with a capability. */
export type CapabilitySupport =
  | { readonly supported: true }
  /** `reason` ends the sentence "The capability x is not supported: ". */
  | { readonly supported: false; readonly reason: string };

/** One capability. */
export type CapabilitySpec = CapabilitySupport & {
  /** QEMU's name. */
  readonly name: string;
  /** Whether it is on in a QEMU that was told nothing. */
  readonly default: boolean;
};

/** Every migration capability of QEMU 11.1, in the order of `query-migrate-capabilities`. */
export const CAPABILITIES = [
  /** A page that was sent before goes as its difference from the copy in a cache. */
  { name: "xbzrle", default: false, supported: true },
  /** RDMA locks all memory at once instead of piece by piece. */
  off("rdma-pin-all", "the engine has no RDMA transport"),
  /** Slows the CPUs down when the guest dirties memory faster than it can be sent. */
  { name: "auto-converge", default: false, supported: true },
  /** Sends the events MIGRATION and MIGRATION_PASS. */
  { name: "events", default: false, supported: true },
  /** The guest runs on the destination before all of its memory is there. */
  { name: "postcopy-ram", default: false, supported: true },
  /** Keeps a second machine in lockstep. */
  off("x-colo", "the engine does not replicate a machine continuously"),
  /** The source frees memory that was sent, in postcopy. */
  off("release-ram", "the engine keeps the source's memory until the migration has completed"),
  /** The destination tells the source that it has loaded everything. */
  { name: "return-path", default: false, supported: true },
  /** Waits for `migrate-continue` with the guest stopped and before its devices are saved. */
  { name: "pause-before-switchover", default: false, supported: true },
  /** Sends pages through several channels at once; the engine, only with mapped-ram: then it is several places of a file. */
  { name: "multifd", default: false, supported: true },
  /** Migrates the dirty bitmaps of block devices. */
  off("dirty-bitmaps", "the engine has no block layer, whose bitmaps it would migrate"),
  /** Measures how long CPUs wait for pages in postcopy. */
  { name: "postcopy-blocktime", default: false, supported: true },
  /** The destination takes the locks of its disks only when its guest starts: nothing to do without a block layer. */
  { name: "late-block-activate", default: false, supported: true },
  /** Leaves out memory that both sides share. */
  { name: "x-ignore-shared", default: false, supported: true },
  /** Sends the machine's UUID, which the destination compares with its own. */
  { name: "validate-uuid", default: false, supported: true },
  /** Saves the machine as it was when the migration started, while it goes on. */
  off("background-snapshot", "the engine cannot protect a running guest's pages against writes"),
  /** The kernel sends pages without copying them. */
  off("zero-copy-send", "Node offers no zero-copy sending"),
  /** In postcopy, pages asked for overtake the others in a channel of their own. */
  { name: "postcopy-preempt", default: false, supported: true },
  /** The destination says when the source may stop its guest. */
  off("switchover-ack", "the engine has no device that must be loaded before the guest stops"),
  /** Slows each CPU down to a limit of dirtied pages. */
  off("dirty-limit", "the engine cannot measure what each CPU dirties; auto-converge slows all of them"),
  /** Each page has a fixed place in a file. */
  { name: "mapped-ram", default: false, supported: true },
] as const satisfies readonly CapabilitySpec[];

/** QEMU's name of a migration capability. */
export type CapabilityName = (typeof CAPABILITIES)[number]["name"];

/** Every capability and whether it is on. */
export type Capabilities = Readonly<Record<CapabilityName, boolean>>;

/** One entry of the answer of `query-migrate-capabilities`. */
export interface MigrationCapabilityStatus {
  readonly capability: CapabilityName;
  readonly state: boolean;
}

/** The names, in QEMU's order. */
export const CAPABILITY_NAMES: readonly CapabilityName[] = CAPABILITIES.map(({ name }) => name);

/** What a QEMU that was told nothing has: all off. */
export const DEFAULT_CAPABILITIES: Capabilities = capabilitiesFrom((spec) => spec.default);

/** Makes a value for each capability. */
export function capabilitiesFrom(stateOf: (spec: (typeof CAPABILITIES)[number]) => boolean): Capabilities {
  // The table has every name once, which is what the type of the record says.
  return Object.fromEntries(CAPABILITIES.map((spec) => [spec.name, stateOf(spec)])) as Capabilities;
}

/** Whether QEMU 11.1 has a migration capability of this name. */
export function isCapabilityName(name: string): name is CapabilityName {
  return (CAPABILITY_NAMES as readonly string[]).includes(name);
}

/** An entry for what the engine does not do. */
function off<const N extends string>(
  name: N,
  reason: string,
): { readonly name: N; readonly default: false; readonly supported: false; readonly reason: string } {
  return { name, default: false, supported: false, reason };
}
