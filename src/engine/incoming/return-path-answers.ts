import type { ByteSink } from "../../channels/index.js";
import { ByteWriter, encodePong, encodeShut } from "../../wire/index.js";
import { systemClock } from "../clock.js";

/** What SHUT says of a load that failed: QEMU's destination says no more either. */
export const REFUSED = 1;

/** Answers a PING. */
export async function sendPong(returnPath: ByteSink, value: number): Promise<void> {
  const writer = new ByteWriter();
  encodePong(writer, value);
  await returnPath.write(writer.finish());
}

/** Tells the source that all is well: its guest may go. */
export async function sendShut(returnPath: ByteSink): Promise<void> {
  const writer = new ByteWriter();
  encodeShut(writer, 0);
  await returnPath.write(writer.finish());
}

/** A source that does not read what is said to it is not waited for. */
const LAST_WORD_MS = 1000;

/**
 * Tells the source that this side failed and runs nothing: its guest is its own. To be said before the connection is closed,
 * and never once the guest may run here. A source that cannot be told is not.
 */
export async function sendRefusal(returnPath: ByteSink): Promise<void> {
  const writer = new ByteWriter();
  encodeShut(writer, REFUSED);
  await lastWord(returnPath.write(writer.finish()));
}

/** Waits for the last words over a connection, but not for long. Never rejects. */
export async function lastWord(writing: Promise<void>): Promise<void> {
  const enough = new AbortController();
  const silence = systemClock.sleep(LAST_WORD_MS, enough.signal);
  await Promise.race([writing.catch(() => undefined), silence]);
  enough.abort();
}
