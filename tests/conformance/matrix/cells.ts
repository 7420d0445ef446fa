/**
 * The matrix of what multifd and TLS are held against real QEMUs with: every combination of the dimensions, and the rules
 * that take some of them out. Whatever no rule takes out is run.
 *
 * @module
 */

import { QEMU_VERSIONS, type QemuVersion } from "../../support/find-qemu.js";

/** The dimensions, in the order that cells are named in. */
export const DIMENSIONS = {
  /** The QEMU at the other end. */
  version: QEMU_VERSIONS,
  /** `receive`: ramport captures what a QEMU sends; `send`: ramport feeds a QEMU that waits. */
  role: ["receive", "send"],
  /** Connections for pages beside the main one (`multifd-channels`); 0 is no multifd. */
  channels: [0, 1, 2, 4, 16],
  /** QEMU's `multifd-compression`. */
  compression: ["none", "zlib", "zstd"],
  /** The source's `zero-page-detection`: nowhere, in its main thread, in the channels' threads. */
  zeroPages: ["none", "legacy", "multifd"],
  tls: ["none", "x509", "psk"],
} as const;

/** One combination. */
export interface Cell {
  readonly version: QemuVersion;
  readonly role: (typeof DIMENSIONS.role)[number];
  readonly channels: (typeof DIMENSIONS.channels)[number];
  readonly compression: (typeof DIMENSIONS.compression)[number];
  readonly zeroPages: (typeof DIMENSIONS.zeroPages)[number];
  readonly tls: (typeof DIMENSIONS.tls)[number];
}

/** Some cells, which there is no use or no way to run, and why. */
export interface Exclusion {
  readonly reason: string;
  readonly fits: (cell: Cell) => boolean;
}

/** In order: the first one that fits a cell is its reason. */
export const EXCLUSIONS: readonly Exclusion[] = [
  {
    reason: "multifd-compression compresses what channels carry: without channels it does nothing",
    fits: ({ channels, compression }) => channels === 0 && compression !== "none",
  },
  {
    reason:
      "zero-page-detection is the source's: where ramport is it, zero pages are records of the main channel, which is `legacy`",
    fits: ({ role, zeroPages }) => role === "send" && zeroPages !== "legacy",
  },
  {
    reason: "QEMU before 9.0 has no zero-page-detection: its main thread looks for them, which is `legacy`",
    fits: ({ version, zeroPages }) => version === "7.2" && zeroPages !== "legacy",
  },
  {
    reason: "without channels no channel's thread can look for zero pages: QEMU takes `multifd` for `legacy`",
    fits: ({ channels, zeroPages }) => channels === 0 && zeroPages === "multifd",
  },
];

/** Cells that are known to fail: run all the same, and the tests fail as soon as one of them passes. */
export const KNOWN_FAILURES: readonly { readonly cells: Partial<Cell>; readonly reason: string }[] = [];

/** Every combination. */
export const CELLS: readonly Cell[] = DIMENSIONS.version.flatMap((version) =>
  DIMENSIONS.role.flatMap((role) =>
    DIMENSIONS.channels.flatMap((channels) =>
      DIMENSIONS.compression.flatMap((compression) =>
        DIMENSIONS.zeroPages.flatMap((zeroPages) =>
          DIMENSIONS.tls.map((tls) => ({ version, role, channels, compression, zeroPages, tls })),
        ),
      ),
    ),
  ),
);

/** What takes a cell out; undefined for one that is run. */
export function exclusionOf(cell: Cell): Exclusion | undefined {
  return EXCLUSIONS.find(({ fits }) => fits(cell));
}

/** Why a cell is known to fail; undefined for one that must pass. */
export function knownFailureOf(cell: Cell): string | undefined {
  return KNOWN_FAILURES.find(({ cells }) =>
    Object.entries(cells).every(([dimension, value]) => cell[dimension as keyof Cell] === value),
  )?.reason;
}

/** The cells that are run with one QEMU in one role. */
export function cellsToRun(version: QemuVersion, role: Cell["role"]): readonly Cell[] {
  return CELLS.filter(
    (cell) => cell.version === version && cell.role === role && exclusionOf(cell) === undefined,
  );
}

/** A few of the cells, such that each value of each dimension that they have is among them. */
export function sampleOf(cells: readonly Cell[]): readonly Cell[] {
  const seen = new Set<string>();
  const chosen: Cell[] = [];
  const fresh = (cell: Cell): string[] =>
    Object.entries(cell)
      .map(([dimension, value]) => `${dimension} ${value}`)
      .filter((value) => !seen.has(value));
  for (;;) {
    // The last of equals: it has channels, where the first has none.
    const best = cells.reduce<Cell | undefined>(
      (found, cell) => (found === undefined || fresh(cell).length >= fresh(found).length ? cell : found),
      undefined,
    );
    if (best === undefined || fresh(best).length === 0) return chosen;
    for (const value of fresh(best)) seen.add(value);
    chosen.push(best);
  }
}

/** A cell's name, for reports. */
export function nameOf({ version, role, channels, compression, zeroPages, tls }: Cell): string {
  const other = `compression ${compression}, zero-page-detection ${zeroPages}, TLS ${tls}`;
  return `${role}, QEMU ${version}, channels ${channels}, ${other}`;
}
