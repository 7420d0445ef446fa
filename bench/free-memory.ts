import fs from "node:fs";
import path from "node:path";

const PIECE_BYTES = 256 << 10;

/**
 * Writes and removes a file as large as what is about to be written, so that its memory is free and at hand.
 *
 * In a virtual machine whose host takes free memory back (free page reporting, a balloon), the first write to such memory
 * costs several times what is measured here, and which row pays would depend on what ran a second before.
 */
export function warmFreeMemory(directory: string, lengthBytes: number): void {
  const file = path.join(directory, "ballast");
  const piece = new Uint8Array(PIECE_BYTES).fill(1);
  const fd = fs.openSync(file, "wx");
  try {
    for (let done = 0; done < lengthBytes; done += piece.length) {
      fs.writeSync(fd, piece, 0, piece.length, done);
    }
  } finally {
    fs.closeSync(fd);
    fs.rmSync(file);
  }
}
