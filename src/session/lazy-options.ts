import type { TlsCredentials } from "../channels/index.js";
import type { PageServerStatistics, ProgressListener } from "../engine/index.js";
import type { Reconnect } from "./lazy-monitor.js";

/** How to restore a VM so that its guest runs at once. */
export interface LazyRestoreOptions {
  /** What the guest does when it is loaded; the default is what it did when it was saved. */
  readonly then?: "run" | "pause";
  /** Where the snapshot starts in the file, in bytes. */
  readonly streamOffset?: number;
  /** postcopy-preempt: pages that are asked for get a connection of their own. Default `auto`: where the QEMU has it. */
  readonly preempt?: "auto" | "on" | "off";
  /** Guest memory that goes with a page that is asked for, in bytes; default 64 KiB. */
  readonly clusterBytes?: number;
  /** Bytes a second of pages that nobody asked for; no limit when not given. */
  readonly fillBytesPerSecond?: number;
  /**
   * When the pages of a working set are sent: `before` the guest runs, which starts later by as much and then waits for none
   * of them, or first of all `after` it does; `off` neither uses nor records one. Default `before`: with 64 MiB the first
   * pass over them ends at the same time, and takes as long as any later one.
   */
  readonly prefetch?: "before" | "after" | "off";
  /** Most bytes of a working set to send ahead; default 256 MiB. */
  readonly prefetchBytes?: number;
  /**
   * Where a working set is recorded, how long pages go out only when they are asked for, each alone, in milliseconds: until
   * the guest asks for nothing during a second, and no longer than this. Default 10 s.
   */
  readonly recordMs?: number;
  /** Where the working set is, or is recorded when there is none; beside the snapshot by default. */
  readonly workingSet?: string;
  /** Where QEMU listens (`unix:PATH`, `tcp:HOST:PORT`), when a private socket will not do. */
  readonly via?: string;
  /** TLS on that socket, as for a restore by sending. */
  readonly tls?: TlsCredentials;
  readonly qmpPath?: string;
  /**
   * Connects to the monitor once more. With it the monitor is let go of while pages are served, and connected to again at the
   * end: it has room for one client. Another client may have it for 60 s; `timeoutMs` and `signal` are for this attempt.
   */
  readonly reconnect?: Reconnect;
  /** Called once the guest runs, or is loaded and paused; its memory still comes in then. */
  readonly onGuest?: (guest: LazyGuest) => void;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** Called with a sentence for the user when something noteworthy happens. */
  readonly onMessage?: (message: string) => void;
}

/** A guest that is there before its memory is. */
export interface LazyGuest {
  readonly guest: "running" | "paused";
  /** From the beginning of the restore, in milliseconds. */
  readonly elapsedMs: number;
  /** Bytes with content that have not been sent. */
  readonly remainingBytes: number;
}

/** What became of a working set. */
export interface WorkingSetUse {
  readonly path: string;
  readonly use: "read-ahead" | "recorded" | "not-recorded";
  readonly pages: number;
}

/** A VM that was restored lazily, and has all of its memory. */
export interface LazyRestoreResult {
  readonly mode: "lazy";
  /** Whether this went on with a restore that another process had begun. */
  readonly resumed: boolean;
  readonly machine: string;
  readonly ramBytes: number;
  readonly guest: "running" | "paused";
  readonly preempt: boolean;
  /** Until the guest was there, in milliseconds; not for one that was there already. */
  readonly guestMs?: number;
  /** Until all of its memory was there. */
  readonly totalTimeMs: number;
  readonly workingSet?: WorkingSetUse;
  /** Of what this process sent. */
  readonly statistics?: PageServerStatistics;
}
