/** The polynomial of zlib, PNG and Ethernet, lowest bit first. */
const POLYNOMIAL = 0xedb88320;
/** Bytes that the kernel takes a turn. */
export const CRC_TABLES = 16;

/** Tables of 256 words, one after the other: word `v` of table `t` is the CRC-32 of byte `v` with `t` zero bytes behind it. */
export function crc32Tables(count: number): Uint32Array {
  const tables = new Uint32Array(count * 256);
  for (let value = 0; value < 256; value++) {
    let crc = value;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    tables[value] = crc;
  }
  for (let index = 256; index < tables.length; index++) {
    const before = tables[index - 256] ?? 0;
    tables[index] = (before >>> 8) ^ (tables[before & 255] ?? 0);
  }
  return tables;
}
