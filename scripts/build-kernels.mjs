/**
 * Builds the WebAssembly kernels: each `src/kernels/NAME.wat` becomes `src/kernels/NAME-wasm.ts`, a module with the
 * bytes. The result is the same on each machine; a test builds again and compares.
 *
 *     node scripts/build-kernels.mjs            build
 *     node scripts/build-kernels.mjs --check    only say whether what is there is what would be built
 *
 * @module
 */

import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

/**
 * What is used of the package wabt.
 *
 * @typedef {object} WatModule
 * @property {(options: object) => { buffer: Uint8Array }} toBinary
 * @property {() => void} validate
 * @property {() => void} destroy
 */

/** @typedef {{ parseWat(name: string, source: string, features: object): WatModule }} Wabt */

/** @typedef {{ path: string, text: string }} BuiltKernel */

const FOLDER = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../src/kernels");
const LINE = 100;

/**
 * The package wabt.
 *
 * @returns {Promise<Wabt>}
 */
export async function loadWabt() {
  const { default: wabt } = await import("wabt");
  return wabt();
}

/**
 * All kernels, built but not written.
 *
 * @param {Wabt} wabt
 * @returns {BuiltKernel[]}
 */
export function buildKernels(wabt) {
  const sources = fs.readdirSync(FOLDER).filter((name) => name.endsWith(".wat"));
  return sources.sort().map((source) => {
    const module = wabt.parseWat(source, fs.readFileSync(path.join(FOLDER, source), "utf8"), { simd: true });
    module.validate();
    const { buffer } = module.toBinary({ write_debug_names: false });
    module.destroy();
    const name = path.basename(source, ".wat");
    return { path: path.join(FOLDER, `${name}-wasm.ts`), text: moduleText(name, buffer) };
  });
}

/**
 * @param {string} name
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function moduleText(name, bytes) {
  const base64 = Buffer.from(bytes).toString("base64");
  const lines = base64.match(new RegExp(`.{1,${LINE}}`, "g")) ?? [];
  const constant = `${name.toUpperCase().replaceAll("-", "_")}_WASM`;
  return [
    `import { decodeBase64 } from "./decode-base64.js";`,
    "",
    `/** Built from ${name}.wat by scripts/build-kernels.mjs: ${bytes.length} bytes. */`,
    `export const ${constant} = decodeBase64(`,
    lines.map((line, index) => `${index === 0 ? "  " : "    "}"${line}"`).join(" +\n") + ",",
    ");",
    "",
  ].join("\n");
}

if (process.argv[1] !== undefined && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const check = process.argv.includes("--check");
  for (const built of buildKernels(await loadWabt())) {
    const same = fs.existsSync(built.path) && fs.readFileSync(built.path, "utf8") === built.text;
    if (check && !same) process.exitCode = 1;
    if (!check && !same) fs.writeFileSync(built.path, built.text);
    const state = same ? "up to date" : check ? "differs" : "written";
    process.stdout.write(`${path.relative(process.cwd(), built.path)}: ${state}\n`);
  }
}
