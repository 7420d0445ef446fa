import { assert } from "../errors/index.js";
import { CRC_TABLES, crc32Tables } from "./crc32-tables.js";
import { PAGE_SCAN_WASM } from "./page-scan-wasm.js";
import type { PageClassRules, PageScanner, PageScannerOptions } from "./page-scanner.js";
import { startKernel, WASM_PAGE, type WasmMemory } from "./web-assembly.js";

interface PageScanExports {
  readonly memory: WasmMemory;
  findContent(at: number, end: number, page: number, out: number): void;
  findChanged(at: number, end: number, shift: number, page: number, out: number): void;
  classify(
    at: number,
    end: number,
    page: number,
    out: number,
    tables: number,
    weights: number,
    sparse: number,
    text: number,
    log: number,
    dense: number,
  ): void;
  xxh64(at: number, end: number, page: number, seed: bigint, out: number): void;
  crc32(at: number, end: number, page: number, tables: number, out: number): void;
}

/** Bytes of four histograms. */
const HISTOGRAMS = 4096;

/** Where an area's results are. */
interface Results {
  readonly content: Uint8Array;
  readonly classes: Uint8Array;
  readonly hashes: Uint32Array;
  readonly sums: Uint32Array;
}

/**
 * The scanner in WebAssembly SIMD, for little-endian machines. Its memory holds the areas, then the histograms, the tables
 * of the CRC, the weights of the class rules, and the results.
 */
export class PageScanKernel implements PageScanner {
  readonly pageSize: number;
  readonly areas: readonly Uint8Array[];
  readonly #kernel: PageScanExports;
  readonly #rules: PageClassRules | undefined;
  readonly #areaPages: number;
  readonly #histograms: number;
  readonly #crcTables: number;
  readonly #weights: number;
  readonly #changed: Uint8Array;
  readonly #results: readonly Results[];
  #hasCrcTables = false;

  private constructor(kernel: PageScanExports, options: PageScannerOptions) {
    const { pageSize, areaPages, areas = 1, classes } = options;
    assert(pageSize > 0 && pageSize % 64 === 0, `pages of ${pageSize} bytes`);
    this.pageSize = pageSize;
    this.#kernel = kernel;
    this.#rules = classes;
    this.#areaPages = areaPages;
    const bitmapBytes = Math.ceil(areaPages / 8);
    // What has the largest items comes first: all of it is aligned then.
    const areaBytes = Math.ceil((areaPages * pageSize) / WASM_PAGE) * WASM_PAGE;
    this.#histograms = areas * areaBytes;
    this.#crcTables = this.#histograms + HISTOGRAMS;
    this.#weights = this.#crcTables + CRC_TABLES * 1024;
    const hashes = this.#weights + (classes === undefined ? 0 : (pageSize + 1) * 8);
    const sums = hashes + areas * areaPages * 8;
    const bytes = sums + areas * areaPages * 4;
    const end = bytes + areas * (bitmapBytes + areaPages) + bitmapBytes;
    const { memory } = kernel;
    memory.grow(Math.ceil(end / WASM_PAGE));
    const { buffer } = memory;
    this.areas = Array.from(
      { length: areas },
      (_, area) => new Uint8Array(buffer, area * areaBytes, areaPages * pageSize),
    );
    this.#results = Array.from({ length: areas }, (_, area) => ({
      hashes: new Uint32Array(buffer, hashes + area * areaPages * 8, areaPages * 2),
      sums: new Uint32Array(buffer, sums + area * areaPages * 4, areaPages),
      content: new Uint8Array(buffer, bytes + area * (bitmapBytes + areaPages), bitmapBytes),
      classes: new Uint8Array(buffer, bytes + area * (bitmapBytes + areaPages) + bitmapBytes, areaPages),
    }));
    this.#changed = new Uint8Array(buffer, end - bitmapBytes, bitmapBytes);
    if (classes !== undefined) new Float64Array(buffer, this.#weights, pageSize + 1).set(classes.weights);
  }

  /** @returns Undefined where the kernel cannot run. */
  static start(options: PageScannerOptions): PageScanKernel | undefined {
    const kernel = startKernel(PAGE_SCAN_WASM) as PageScanExports | undefined;
    return kernel && new PageScanKernel(kernel, options);
  }

  area(area: number, count: number): Uint8Array {
    const [at, end] = this.#range(area, 0, count);
    return new Uint8Array(this.#kernel.memory.buffer, at, end - at);
  }

  findContent(area: number, count: number): Uint8Array {
    const { content } = this.#resultsOf(area);
    const [at, end] = this.#range(area, 0, count);
    // The kernel takes a first page for granted.
    if (count > 0) this.#kernel.findContent(at, end, this.pageSize, content.byteOffset);
    return content.subarray(0, Math.ceil(count / 8));
  }

  findChanged(count: number): Uint8Array {
    const [at, end] = this.#range(0, 0, count);
    const [other] = this.#range(1, 0, count);
    const changed = this.#changed;
    if (count > 0) this.#kernel.findChanged(at, end, other - at, this.pageSize, changed.byteOffset);
    return changed.subarray(0, Math.ceil(count / 8));
  }

  classify(area: number, count: number): Uint8Array {
    const rules = this.#rules;
    assert(rules !== undefined, "a scanner without class rules");
    const { classes } = this.#resultsOf(area);
    const [at, end] = this.#range(area, 0, count);
    if (count > 0) {
      this.#kernel.classify(
        at,
        end,
        this.pageSize,
        classes.byteOffset,
        this.#histograms,
        this.#weights,
        rules.sparseBytes,
        rules.textShare,
        Math.log2(this.pageSize),
        rules.denseBits,
      );
    }
    return classes.subarray(0, count);
  }

  xxh64(area: number, start: number, end: number, seed: bigint): Uint32Array {
    const { hashes } = this.#resultsOf(area);
    const [at, stop] = this.#range(area, start, end);
    if (at < stop) this.#kernel.xxh64(at, stop, this.pageSize, seed, hashes.byteOffset + start * 8);
    return hashes;
  }

  crc32(area: number, start: number, end: number): Uint32Array {
    const { sums } = this.#resultsOf(area);
    const [at, stop] = this.#range(area, start, end);
    if (!this.#hasCrcTables) {
      new Uint32Array(sums.buffer, this.#crcTables, CRC_TABLES * 256).set(crc32Tables(CRC_TABLES));
      this.#hasCrcTables = true;
    }
    if (at < stop) {
      this.#kernel.crc32(at, stop, this.pageSize, this.#crcTables, sums.byteOffset + start * 4);
    }
    return sums;
  }

  #resultsOf(area: number): Results {
    const results = this.#results[area];
    assert(results !== undefined, `area ${area} of ${this.#results.length}`);
    return results;
  }

  /** Where pages begin and end in the memory. */
  #range(area: number, start: number, end: number): readonly [number, number] {
    const offset = this.areas[area]?.byteOffset;
    assert(offset !== undefined, `area ${area} of ${this.areas.length}`);
    assert(start >= 0 && start <= end && end <= this.#areaPages, `pages ${start} to ${end}`);
    return [offset + start * this.pageSize, offset + end * this.pageSize];
  }
}
