/** Hashes pages: 128 bits each, under one key. See page-hash-key.ts for what kind of hash that is. */
export interface PageHasher {
  /** Where {@link hash} copies pages to: how much it takes at once, and after it the bytes that were hashed. */
  readonly staging: Uint8Array;
  /** After {@link hash}: four words for each page. */
  readonly hashes: Uint32Array;
  /** Copies whole pages to the start of {@link staging} and hashes the copy: a guest cannot change it in between. */
  hash(pages: Uint8Array): void;
}
