/**
 * What the files of the matrix share: a suite for the cells of one QEMU in one role.
 *
 * @module
 */

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, test } from "vitest";

import type { TlsCredentials } from "../../../src/channels/index.js";
import { hasOpenssl, makePskFolder, TestCa } from "../../support/certificates.js";
import { findQemu, type QemuVersion } from "../../support/find-qemu.js";
import { guestMachine } from "../../support/migrating-guest.js";
import { reportMissing } from "../../support/missing.js";
import { killAllQemus, type StartQemuOptions } from "../../support/qemu.js";
import { type Cell, cellsToRun, knownFailureOf, nameOf } from "./cells.js";

/** A cell that takes longer has failed: it takes a second or two where nothing else runs. */
const CELL_LIMIT_MS = 20_000;
/** Ends what hangs before the test's own end, so that nothing of it runs on beside the next cell. */
const HANG_MS = 15_000;

/** What the cells of a file have in common. */
export interface Suite {
  readonly version: QemuVersion;
  /** Path in a folder that goes away with the suite. */
  file(name: string): string;
  /** Folder with the files of both sides, in QEMU's layout. */
  credentials(tls: "x509" | "psk"): string;
  /** The same for ramport; nothing without TLS. */
  tlsOptions(cell: Cell): { readonly tls?: TlsCredentials };
  /** The guest's machine. */
  machine(options?: Partial<StartQemuOptions>): StartQemuOptions;
}

/** How a role runs its cells. */
export interface Role {
  /** Before the first cell. */
  readonly prepare: () => Promise<void>;
  readonly run: (cell: Cell, signal: AbortSignal) => Promise<void>;
  /** After a cell that failed. */
  readonly recover?: () => Promise<void>;
}

/** A test for each cell. */
export function describeMatrix(
  version: QemuVersion,
  role: Cell["role"],
  start: (suite: Suite) => Role,
): void {
  const title = `matrix, ${role}, QEMU ${version}`;
  const qemu = findQemu(version);
  if (!qemu.found) {
    const variable = "RAMPORT_REQUIRE_QEMU";
    reportMissing({ title, reason: qemu.reason, variable, subject: "a QEMU" });
    return;
  }
  if (!hasOpenssl()) {
    reportMissing({ title, reason: "there is no openssl to make certificates with" });
    return;
  }
  describe(title, () => {
    let folder = "";
    const file = (name: string): string => path.join(folder, name);
    const suite = suiteIn(version, file);
    const { prepare, run, recover } = start(suite);
    beforeAll(async () => {
      folder = mkdtempSync(path.join(realpathSync(tmpdir()), "rpm-"));
      makePskFolder(suite.credentials("psk"));
      new TestCa(file("ca")).issue(suite.credentials("x509"));
      await prepare();
    });
    afterAll(async () => {
      await killAllQemus();
      rmSync(folder, { recursive: true, force: true });
    });
    afterEach(async ({ task }) => {
      if (task.result?.state === "fail") await recover?.();
    });
    for (const cell of cellsToRun(version, role)) {
      const define = knownFailureOf(cell) === undefined ? test : test.fails;
      define(nameOf(cell), { timeout: CELL_LIMIT_MS }, () => run(cell, AbortSignal.timeout(HANG_MS)));
    }
  });
}

function suiteIn(version: QemuVersion, file: (name: string) => string): Suite {
  return {
    version,
    file,
    credentials: (tls) => file(tls),
    tlsOptions: ({ tls }) => {
      if (tls === "none") return {};
      if (tls === "psk") return { tls: { kind: "psk", file: path.join(file("psk"), "keys.psk") } };
      return { tls: { kind: "x509", folder: file("x509") } };
    },
    machine: (options = {}) => guestMachine(file(""), { version, ...options }),
  };
}
