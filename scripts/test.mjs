// Runs the tests on a fresh clone or any other: sets the clone up, brings the QEMUs and the Linux guest that the
// conformance tests need, and runs vitest. `node scripts/test.mjs conformance` runs one project; further arguments go
// to vitest.
import { spawnSync } from "node:child_process";
import path from "node:path";

import { PROJECT, SetupError, setUp } from "./setup.mjs";

const [project, ...others] = process.argv.slice(2);

/**
 * Runs a script of Node's with this terminal.
 *
 * @param {string[]} args
 * @returns {number}
 */
function node(args) {
  return spawnSync(process.execPath, args, { cwd: PROJECT, stdio: "inherit" }).status ?? 1;
}

try {
  setUp();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exit(3);
}
if (project !== "unit") {
  console.error(
    "Bringing the QEMUs and guests that the conformance tests run (once; --project unit needs none).",
  );
  for (const script of ["fetch-qemu.mjs", "fetch-linux.mjs"]) {
    const fetched = node([path.join("scripts", script)]);
    // Elsewhere the tests that find no QEMU, or no guest, say that they are skipped, and why.
    if (fetched !== 0 && process.env["CI"] !== undefined) process.exit(fetched);
  }
}
// The matrix is a part of the conformance tests that is fast enough to share the machine with itself.
const projects =
  project === "conformance" ? ["conformance", "matrix"] : project === undefined ? [] : [project];
const selection = projects.flatMap((name) => ["--project", name]);
process.exit(node([path.join("node_modules", "vitest", "vitest.mjs"), "run", ...selection, ...others]));
