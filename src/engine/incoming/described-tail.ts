import {
  type ExaminedStreamTail,
  examineStreamTail,
  type SectionFraming,
  type StreamTail,
} from "../../wire/index.js";

/**
 * Whether the description says of each device how long its section is, and the sections are so. A stream that was cut off
 * where a device's own bytes look like an end is told from a whole one by nothing else.
 */
export function isDescribed({
  sections,
  description,
}: Pick<StreamTail, "sections" | "description">): boolean {
  const devices = description?.content.devices ?? [];
  return sections.every(
    ({ iterative, name, instance, payloadLength }) =>
      iterative ||
      devices.some(
        (device) =>
          device.name === name && device.instance === instance && device.payloadBytes === payloadLength,
      ),
  );
}

/** Whether the bytes behind RAM add up to a whole tail, by the description or without one. */
export function isWholeTail(bytes: Uint8Array, framing: SectionFraming): boolean {
  return isWhole(examineStreamTail(bytes, 0, framing));
}

/** Whether all of it is as its own description says, device by device. */
export function isDescribedTail(bytes: Uint8Array, framing: SectionFraming): boolean {
  const tail = examineStreamTail(bytes, 0, framing);
  return isWhole(tail) && isDescribed(tail);
}

function isWhole({ eofOffset, undelimited, problems, trailingBytes }: ExaminedStreamTail): boolean {
  return undelimited === undefined && eofOffset !== undefined && problems.length === 0 && trailingBytes === 0;
}
