/**
 * When a source makes all of its channels wait for each other, so that a page that comes again finds the earlier one in its
 * place.
 *
 * - `section`: with every end of a part of the RAM section, until QEMU 8.0.
 * - `round`: at the end of START, and once a round through memory, each time with a FLUSH record on the main channel; since
 *   QEMU 8.1.
 *
 * Nothing in a stream says which, and both sides must mean the same. For QEMU it is the migration property
 * `multifd-flush-after-each-section`, which machine types up to 8.0 turn on.
 */
export type MultifdSyncMode = "section" | "round";

/** The last of QEMU's machine types that sync with each section, and of RHEL's. */
const LAST_BY_SECTION = { qemu: [8, 0], rhel: [9, 2] } as const;
/** Ubuntu's machine types up to QEMU 8.0 are named after its releases. */
const UBUNTU_BY_SECTION =
  /-(trusty|utopic|vivid|wily|xenial|yakkety|zesty|artful|bionic|cosmic|disco|eoan|focal|groovy|hirsute|impish|jammy|kinetic|lunar|mantic)\b/;

/**
 * What a machine type says of how its migrations are synced.
 *
 * @param machine As in the stream's configuration: `pc-q35-8.0`.
 * @returns undefined for types without a version: there it depends on the QEMU.
 */
export function multifdSyncModeOf(machine: string): MultifdSyncMode | undefined {
  const groups = /-(?<rhel>rhel)?(?<major>\d+)\.(?<minor>\d+)/.exec(machine)?.groups;
  if (groups !== undefined) {
    const last = groups.rhel === undefined ? LAST_BY_SECTION.qemu : LAST_BY_SECTION.rhel;
    return isLater([Number(groups.major), Number(groups.minor)], last) ? "round" : "section";
  }
  return UBUNTU_BY_SECTION.test(machine) ? "section" : undefined;
}

/** The same for a QEMU by its version, where the machine type does not say it. */
export function multifdSyncModeOfQemu(version: {
  readonly major: number;
  readonly minor: number;
}): MultifdSyncMode {
  return isLater([version.major, version.minor], LAST_BY_SECTION.qemu) ? "round" : "section";
}

type Version = readonly [major: number, minor: number];

function isLater([major, minor]: Version, [lastMajor, lastMinor]: Version): boolean {
  return major > lastMajor || (major === lastMajor && minor > lastMinor);
}
