/**
 * Runs the demo on a fresh clone: `npm run demo`, or `npm run demo -- --help`.
 *
 * @module
 */

import { SetupError, setUp } from "./setup.mjs";

try {
  setUp();
  // Not there before the packages are.
  const { tsImport } = await import("tsx/esm/api");
  const { runDemo } = await tsImport("../demo/main.ts", import.meta.url);
  process.exitCode = await runDemo(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
