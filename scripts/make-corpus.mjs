/**
 * Makes migration files with the real QEMUs in .cache/qemu: `npm run make-corpus -- [--out DIR] [--only GLOB]`.
 *
 * @module
 */

import { ensureNode, ensurePackages, SetupError } from "./setup.mjs";

try {
  ensureNode();
  ensurePackages();
  // Not there before the packages are.
  const { tsImport } = await import("tsx/esm/api");
  const { runMakeCorpus } = await tsImport("../corpus/main.ts", import.meta.url);
  process.exitCode = await runMakeCorpus(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
