import { assert } from "../errors/index.js";
import { crc32Tables } from "./crc32-tables.js";
import type { PageClassRules, PageScanner, PageScannerOptions } from "./page-scanner.js";
import { Xxh64 } from "./xxh64.js";

/** The scanner without WebAssembly: what the kernel is held to, and what runs where it cannot. */
export class PageScanTwin implements PageScanner {
  readonly pageSize: number;
  readonly areas: readonly Uint8Array[];
  readonly #words: readonly Int32Array[];
  readonly #views: readonly DataView[];
  readonly #rules: PageClassRules | undefined;
  readonly #areaPages: number;
  readonly #hash = new Xxh64();
  #crcTable: Uint32Array | undefined;

  constructor({ pageSize, areaPages, areas = 1, classes }: PageScannerOptions) {
    assert(pageSize > 0 && pageSize % 64 === 0, `pages of ${pageSize} bytes`);
    this.pageSize = pageSize;
    this.areas = Array.from({ length: areas }, () => new Uint8Array(areaPages * pageSize));
    this.#words = this.areas.map(({ buffer }) => new Int32Array(buffer));
    this.#views = this.areas.map(({ buffer }) => new DataView(buffer));
    this.#areaPages = areaPages;
    this.#rules = classes;
  }

  area(area: number, count: number): Uint8Array {
    return this.#areaOf(this.areas, area, 0, count).subarray(0, count * this.pageSize);
  }

  findContent(area: number, count: number): Uint8Array {
    const words = this.#areaOf(this.#words, area, 0, count);
    return this.#bitmap(count, (at, end) => {
      for (let index = at; index < end; index++) if (words[index] !== 0) return true;
      return false;
    });
  }

  findChanged(count: number): Uint8Array {
    const before = this.#areaOf(this.#words, 0, 0, count);
    const after = this.#areaOf(this.#words, 1, 0, count);
    return this.#bitmap(count, (at, end) => {
      for (let index = at; index < end; index++) if (before[index] !== after[index]) return true;
      return false;
    });
  }

  classify(area: number, count: number): Uint8Array {
    const rules = this.#rules;
    assert(rules !== undefined, "a scanner without class rules");
    const bytes = this.#areaOf(this.areas, area, 0, count);
    return Uint8Array.from({ length: count }, (_, page) => rules.classIndex(bytes, page * this.pageSize));
  }

  xxh64(area: number, start: number, end: number, seed: bigint): Uint32Array {
    const view = this.#areaOf(this.#views, area, start, end);
    const hashes = new Uint32Array(this.#areaPages * 2);
    const { pageSize } = this;
    for (let page = start; page < end; page++) {
      this.#hash.hash(view, page * pageSize, pageSize, seed, hashes, page * 2);
    }
    return hashes;
  }

  crc32(area: number, start: number, end: number): Uint32Array {
    const bytes = this.#areaOf(this.areas, area, start, end);
    const table = (this.#crcTable ??= crc32Tables(1));
    const sums = new Uint32Array(this.#areaPages);
    for (let page = start; page < end; page++) {
      let crc = 0xffff_ffff;
      const stop = (page + 1) * this.pageSize;
      for (let at = page * this.pageSize; at < stop; at++) {
        crc = (crc >>> 8) ^ (table[(crc ^ (bytes[at] ?? 0)) & 255] ?? 0);
      }
      sums[page] = crc ^ 0xffff_ffff;
    }
    return sums;
  }

  /** A bit for each page: what `has` says of its words. */
  #bitmap(count: number, has: (at: number, end: number) => boolean): Uint8Array {
    const bits = new Uint8Array(Math.ceil(count / 8));
    const words = this.pageSize / 4;
    for (let page = 0; page < count; page++) {
      if (has(page * words, (page + 1) * words))
        bits[page >>> 3] = (bits[page >>> 3] ?? 0) | (1 << (page & 7));
    }
    return bits;
  }

  #areaOf<T>(views: readonly T[], area: number, start: number, end: number): T {
    const view = views[area];
    assert(view !== undefined, `area ${area} of ${views.length}`);
    assert(start >= 0 && start <= end && end <= this.#areaPages, `pages ${start} to ${end}`);
    return view;
  }
}
