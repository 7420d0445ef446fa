import { FormatError } from "../../errors/index.js";
import { endsWithDescription, Limits, type SectionFraming, SectionType } from "../../wire/index.js";
import type { Clock } from "../clock.js";
import type { StreamInput } from "../stream-input.js";
import { isDescribedTail, isWholeTail } from "./described-tail.js";

/** What is known of a tail before it is read. */
export interface TailReading {
  readonly framing: SectionFraming;
  /** Whether the source keeps its side open until it was told that all is well: then no end of the bytes tells the end. */
  readonly sourceWaits: boolean;
  /** The source's description delimits every one of its devices: less than that is not taken for the end. */
  readonly describesAllDevices: boolean;
  readonly clock: Clock;
}

/** Device state that is kept in memory until the stream's end, when its description says what it is. */
const INITIAL_TAIL_BYTES = 1 << 20;
/** A source that has more to send does not pause between two bytes for so long, or its pause costs one look. */
const SILENCE_MS = 5;
const LONG_SILENCE_MS = 500;

/**
 * Reads the device sections and the description: everything to the end of the source. A source with a return path does
 * not close before it was told that all is well; there the description's end is the end.
 *
 * @throws FormatError `limit-exceeded` when it is too long; whatever the source throws.
 */
export async function readTail(input: StreamInput, reading: TailReading): Promise<Uint8Array> {
  let tail = new Uint8Array(INITIAL_TAIL_BYTES);
  let length = 0;
  do {
    if (length + input.available > Limits.tailBytes) {
      throw new FormatError("limit-exceeded", `The device state is longer than ${Limits.tailBytes} bytes`, {
        offset: input.offset,
      });
    }
    if (length + input.available > tail.length) {
      const larger = new Uint8Array(Math.max(tail.length * 2, length + input.available));
      larger.set(tail);
      tail = larger;
    }
    tail.set(input.bytes.subarray(input.position, input.end), length);
    length += input.available;
    input.position = input.end;
  } while (await fillTail(input, tail.subarray(0, length), reading));
  return tail.subarray(0, length);
}

/**
 * Reads more of the tail, or finds that there is no more. A source that waits to be told falls silent; only then is it
 * worth looking whether what came is whole.
 */
async function fillTail(input: StreamInput, tail: Uint8Array, reading: TailReading): Promise<boolean> {
  const filled = input.fill();
  const { framing, sourceWaits, describesAllDevices, clock } = reading;
  if (!sourceWaits) return filled;
  const looks: [silenceMs: number, isEnd: () => boolean][] = [
    // The bytes of a device may look like a description: only one that fits all sections is believed.
    [SILENCE_MS, () => endsWithDescription(tail) && isDescribedTail(tail, framing)],
  ];
  if (!describesAllDevices) {
    // Devices of which the description does not say how long they are; or none at all (suppress-vmdesc), and then the
    // sections must add up to the last byte.
    const mayBeWhole = (): boolean =>
      endsWithDescription(tail) || (tail.at(-1) === SectionType.EOF && isWholeTail(tail, framing));
    looks.push([LONG_SILENCE_MS, mayBeWhole]);
  }
  for (const [silenceMs, isEnd] of looks) {
    const more = await Promise.race([filled, clock.sleep(silenceMs).then(() => undefined)]);
    if (more !== undefined) return more;
    if (isEnd()) {
      // Nobody waits for it any more; closing the source ends it.
      filled.catch(() => undefined);
      return false;
    }
  }
  return filled;
}
