import type { PassedSection, StreamHead } from "../engine/index.js";
import type { FormatError } from "../errors/index.js";
import type { StreamTail } from "../wire/index.js";
import type { LibvirtImage, SnapshotSection } from "./snapshot.js";

/** What a stream in a file is, beside the file itself. */
export interface StreamReading {
  readonly head: StreamHead;
  readonly tail: StreamTail | undefined;
  readonly sections: readonly SnapshotSection[];
  readonly problems: readonly FormatError[];
  readonly libvirt?: LibvirtImage;
  /** The bytes of everything but RAM, of a stream that was walked. */
  readonly outsideRam?: readonly PassedSection[];
  /** Whether sections end with footers, where the stream was walked. */
  readonly footers?: boolean;
}
