import type { StreamTail } from "../../wire/index.js";

/**
 * Whether the description says of each device how long its section is, and the sections are so. A stream that was cut off
 * where a device's own bytes look like an end is told from a whole one by nothing else.
 */
export function isDescribed({ sections, description }: Pick<StreamTail, "sections" | "description">): boolean {
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
