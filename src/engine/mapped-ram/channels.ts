import { UsageError } from "../../errors/index.js";

/** QEMU's range of `multifd-channels`. */
const MOST_CHANNELS = 255;

/** @throws UsageError when it is not the number of pieces of a file that can be in flight at a time. */
export function checkChannels(channels: number): void {
  if (Number.isInteger(channels) && channels >= 1 && channels <= MOST_CHANNELS) return;
  throw new UsageError(`A mapped-ram file is moved by 1 to ${MOST_CHANNELS} channels`, { actual: channels });
}
