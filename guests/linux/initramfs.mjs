/**
 * Makes the initramfs of the Linux guest: an archive in cpio's format "newc" (Documentation/driver-api/early-userspace
 * of the kernel describes it), gzipped. The same input makes the same bytes.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

/**
 * A file, folder or device of the archive.
 *
 * @typedef {object} Entry
 * @property {string} name path without a slash in front; folders come before what is in them
 * @property {number} mode type and rights, as in `st_mode`
 * @property {Uint8Array} [content]
 * @property {readonly [major: number, minor: number]} [device]
 */

const FOLDER = 0o040755;
const PROGRAM = 0o100755;
const CHARACTER_DEVICE = 0o020600;
/** Name of the entry that ends an archive. */
const TRAILER = "TRAILER!!!";
const MAGIC = "070701";

/** The guest's first program. */
export const INIT_SCRIPT = readFileSync(new URL("init.sh", import.meta.url));

/**
 * @param {readonly Entry[]} entries
 * @returns {Buffer}
 */
export function packCpio(entries) {
  /** @type {Uint8Array[]} */
  const parts = [];
  for (const [index, entry] of [...entries, { name: TRAILER, mode: 0 }].entries()) {
    const { name, mode, content = new Uint8Array(0), device = [0, 0] } = /** @type {Entry} */ (entry);
    const path = Buffer.from(`${name}\0`);
    // Inode, mode, uid, gid, links, mtime, file size, device of the file system, device, name size, checksum.
    const numbers = [index + 1, mode, 0, 0, 1, 0, content.length, 0, 0, ...device, path.length, 0];
    const header = Buffer.from(MAGIC + numbers.map((n) => n.toString(16).padStart(8, "0")).join(""));
    parts.push(header, path, padding(header.length + path.length), content, padding(content.length));
  }
  return Buffer.concat(parts);
}

/**
 * @param {number} length
 * @returns {Uint8Array} what is missing to a multiple of 4
 */
function padding(length) {
  return new Uint8Array(-length & 3);
}

/**
 * @param {Uint8Array} busybox static, for the guest's architecture
 * @param {Uint8Array} [init] the first program; default {@link INIT_SCRIPT}
 * @returns {Buffer}
 */
export function buildInitramfs(busybox, init = INIT_SCRIPT) {
  const folders = ["bin", "data", "dev", "proc", "sys"].map((name) => ({ name, mode: FOLDER }));
  const archive = packCpio([
    ...folders,
    { name: "bin/busybox", mode: PROGRAM, content: busybox },
    // The kernel opens it for the first program, before that can mount anything.
    { name: "dev/console", mode: CHARACTER_DEVICE, device: [5, 1] },
    { name: "init", mode: PROGRAM, content: init },
  ]);
  return gzipSync(archive, { level: 9 });
}
