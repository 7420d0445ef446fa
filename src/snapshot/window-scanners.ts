import { createPageScanner, type PageClassRules, type PageScanner } from "../kernels/index.js";
import { WINDOW_BYTES } from "./page-windows.js";

/**
 * Scanners whose areas hold a window of pages, one for each page size: blocks of a snapshot are mostly of one, and a file
 * may have thousands of them.
 */
export class WindowScanners {
  readonly #areas: number;
  readonly #classesOf: ((pageSize: number) => PageClassRules) | undefined;
  readonly #scanners = new Map<number, PageScanner>();

  /**
   * @param areas Blocks that are walked side by side.
   * @param classesOf The rules for pages of a size, where they are to be classed.
   */
  constructor(areas: number, classesOf?: (pageSize: number) => PageClassRules) {
    this.#areas = areas;
    this.#classesOf = classesOf;
  }

  /** @param pageSize Bytes: a power of two from 64 up to {@link WINDOW_BYTES}. */
  for(pageSize: number): PageScanner {
    const known = this.#scanners.get(pageSize);
    if (known !== undefined) return known;
    const classes = this.#classesOf?.(pageSize);
    const scanner = createPageScanner({
      pageSize,
      areaPages: WINDOW_BYTES / pageSize,
      areas: this.#areas,
      ...(classes === undefined ? {} : { classes }),
    });
    this.#scanners.set(pageSize, scanner);
    return scanner;
  }
}
