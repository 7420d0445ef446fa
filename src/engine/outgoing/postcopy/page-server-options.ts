import type { Clock } from "../../clock.js";
import type { RecordingLimits } from "./recording-window.js";

/** How pages are served. */
export interface PageServerOptions {
  /** Id of the RAM section. */
  readonly ramId: number;
  /** Whether sections are closed by footers. */
  readonly footers: boolean;
  /** Guest memory around a page that is sent with it when it is asked for, in bytes; default 64 KiB, 0 for none. */
  readonly clusterBytes?: number;
  /**
   * What goes out at once when nothing is asked for, in bytes; default 128 KiB. A page that is asked for waits behind it,
   * and the destination keeps a lock for as long.
   */
  readonly sliceBytes?: number;
  /** Bytes a second of pages that nobody asked for; asked anew all the time. Default 0: as fast as they go. */
  readonly fillBytesPerSecond?: () => number;
  /**
   * Whether zero pages are sent only when they are asked for. Where nobody asked, they appear by themselves at the end; but
   * a destination may ask when the end is on its way, and a QEMU of 10.2 or newer then waits for ever, unless there is a
   * preempt channel to answer on. Default: with a preempt channel yes, without one no.
   */
  readonly zeroPagesWhenAsked?: boolean;
  /** How many requests are kept in order; default 131072. */
  readonly mostRecorded?: number;
  /** Sends each page that is asked for alone at first, and no others, so that the requests are all that the guest uses. */
  readonly recording?: RecordingLimits;
  /**
   * Milliseconds from when the devices are loaded in which nothing goes out that nobody asks for, and until the first request:
   * for a guest that has its working set. Default 0.
   */
  readonly headStartMs?: number;
  readonly clock?: Clock;
  /** Called after each write. */
  readonly onSent?: () => void;
  /** Called when the end of the stream was written. */
  readonly onAllSent?: () => void;
}
