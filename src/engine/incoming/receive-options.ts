import type { ByteSink } from "../../channels/index.js";
import type { Configuration, RamBlockEntry } from "../../wire/index.js";
import type { Clock } from "../clock.js";
import type { MultifdReceiving } from "../multifd/start-channels.js";
import type { ProgressListener } from "../progress.js";
import type { PostcopyTakeOver } from "./postcopy/take-over.js";

/** How to receive. */
export interface ReceiveOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** Where the stream starts in its file: what is said of places counts from there. */
  readonly startOffset?: number;
  /** Bytes; for sources that say nothing of it in the stream. Its first pages show it when it is not given. */
  readonly targetPageSize?: number;
  /** Where PINGs are answered and the end is confirmed, when the source opens a return path. */
  readonly returnPath?: ByteSink;
  /**
   * The source's description delimits every one of its devices. With a return path, where nothing but silence tells that
   * all has come, less than that is then not taken for the end.
   */
  readonly describesAllDevices?: boolean;
  readonly clock?: Clock;
  /** The source's other connections, of a multifd migration. They are closed by whoever opened them. */
  readonly multifd?: MultifdReceiving;
  /** Takes the migration over when it goes on by postcopy. Without it, one that does is refused. */
  readonly postcopy?: PostcopyTakeOver;
}

/** What was received. */
export interface ReceiveResult {
  readonly configuration: Configuration | undefined;
  readonly blocks: readonly RamBlockEntry[];
  readonly receivedBytes: number;
  /**
   * Tells the source that all is well, where it waits to hear it; to be called when what was received is safe. Until
   * then the source keeps its guest ready to go on.
   */
  confirm(): Promise<void>;
}
