/**
 * Loops over bytes that are worth WebAssembly. Each has a twin in plain TypeScript that tests hold it to. Pure, runs in a
 * browser.
 *
 * @module
 */
export { createPageHasher } from "./create-page-hasher.js";
export { createPageScanner } from "./create-page-scanner.js";
export { hasBit } from "./has-bit.js";
export { PAGE_HASH_BYTES } from "./page-hash-key.js";
export type { PageHasher } from "./page-hasher.js";
export type { PageClassRules, PageScanner, PageScannerOptions } from "./page-scanner.js";
export { XbzrleKernel } from "./xbzrle-kernel.js";
