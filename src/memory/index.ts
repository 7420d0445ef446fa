/**
 * Guest memory as ramport holds it: page bitmaps and the loops over pages. Pure, runs in a browser.
 *
 * @module
 */
export { PageBitmap, type PageRun } from "./page-bitmap.js";
export { PAGE_CLASSES, type PageClass, PageClassifier } from "./page-class.js";
export { isZero } from "./zero.js";
