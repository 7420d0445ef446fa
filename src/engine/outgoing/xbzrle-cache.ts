// Placeholder so that others can compile and run: to be overwritten by the real cache.
import type { XbzrleCacheStats } from "../../qapi/index.js";

export class XbzrleCache {
  readonly encoded = new Uint8Array(0);
  constructor(
    readonly cacheBytes: number,
    readonly pageSize: number,
  ) {}
  get stats(): XbzrleCacheStats | undefined {
    return undefined;
  }
  encode(
    _block: number,
    _address: number,
    _bytes: Uint8Array,
    _at: number,
    _round: number,
  ): { readonly kind: "hit"; readonly length: number } | { readonly kind: "miss" | "overflow" | "same" } {
    return { kind: "miss" };
  }
  storeZero(_block: number, _address: number): void {}
  resize(_bytes: number): void {}
}
