import type { RandomAccessSource } from "../channels/index.js";
import { UsageError } from "../errors/index.js";
import { identifySnapshot } from "./identify.js";
import { openSource } from "./open.js";

/**
 * The domain's XML in a libvirt save image, as it is in the file.
 *
 * @throws UsageError when the file is no such image; FormatError; MachineError `io`.
 */
export function readLibvirtXml(file: string | RandomAccessSource, fileOffset = 0): string {
  const { source, offset, close } = openSource(file, { offset: fileOffset });
  try {
    const { libvirt } = identifySnapshot(source, offset);
    if (libvirt === undefined) throw new UsageError("Only libvirt's save images have the domain's XML");
    return libvirt.xml;
  } finally {
    close();
  }
}
