import {
  type ConnectionsToCome,
  type IncomingChannel,
  type MigrationUri,
  openIncoming,
} from "../../channels/index.js";
import { asError } from "../../errors/as-error.js";
import { MachineError, UsageError } from "../../errors/index.js";
import type { MigrationInfo } from "../../qapi/index.js";
import type { LoadPostcopyOptions } from "../incoming/postcopy/host-postcopy.js";
import type { MigrationState } from "../migration-states.js";
import type {
  PostcopyBlocktime,
  PostcopyConnection,
  PostcopyListening,
  PostcopyStatus,
} from "../postcopy/postcopy-host.js";

/** What {@link IncomingPostcopy} has of the migration that it belongs to. */
export interface IncomingPostcopyContext {
  readonly state: MigrationState;
  /** Whether the source may go over to postcopy: `postcopy-ram`. */
  readonly isEnabled: () => boolean;
  /** Whether the source makes a second connection. */
  readonly preempt: () => boolean;
  /** The guest may run while pages are missing. */
  readonly onRun: (loaded: { readonly wasRunning: boolean }) => void | Promise<void>;
}

/** The destination's side of a migration that goes over to postcopy, as its machine sees it: statuses, pausing, recovery. */
export class IncomingPostcopy {
  readonly #context: IncomingPostcopyContext;
  #listening: PostcopyListening | undefined;
  /** Ends the wait for a second connection. */
  #secondOver = new AbortController();
  /** Ends the wait for a source that comes back. */
  #recoverOver: AbortController | undefined;
  #error: string | undefined;

  constructor(context: IncomingPostcopyContext) {
    this.#context = context;
  }

  /** Why it is paused. */
  get error(): string | undefined {
    return this.#error;
  }

  /**
   * How a load takes postcopy.
   *
   * @param more The connections that its source may still make.
   */
  load(more: ConnectionsToCome | undefined): LoadPostcopyOptions {
    const { state, onRun, isEnabled } = this.#context;
    const preempt = this.#second(more);
    return {
      isEnabled: isEnabled(),
      ...(preempt === undefined ? {} : { preempt }),
      events: { onStatus: (status, error) => this.#onStatus(status, error) },
      onListening: (listening) => {
        this.#listening = listening;
      },
      onRun: (loaded) => {
        // The connection may have broken while the devices were loaded.
        if (state.status === "postcopy-device") state.enter("postcopy-active");
        return onRun(loaded);
      },
    };
  }

  /** Breaks the connection, as if the network had. */
  pause(): void {
    this.#listening?.pause();
  }

  /**
   * Waits at another address for the source to come back. Resolves when it listens there; called again, it listens anew.
   *
   * @param onListening Gets the address.
   * @throws UsageError when it is not paused, or at what is no socket; MachineError when it cannot listen.
   */
  async recover(uri: MigrationUri, onListening: (address: string) => void): Promise<void> {
    const listening = this.#listening;
    if (listening === undefined || this.#context.state.status !== "postcopy-paused") {
      throw new UsageError("Only a migration that is paused in postcopy can be recovered", {
        actual: this.#context.state.status,
      });
    }
    this.#recoverOver?.abort();
    const over = new AbortController();
    this.#recoverOver = over;
    await new Promise<void>((resolve, reject) => {
      const channel = openIncoming(uri, {
        several: true,
        signal: over.signal,
        onListening: (address) => {
          onListening(address);
          resolve();
        },
      });
      channel
        .then((opened) => {
          resolve();
          return this.#takeUp(listening, opened);
        })
        .catch((error: unknown) => {
          // Once it listened, how that went is told by the status.
          if (!over.signal.aborted) this.#error = asError(error).message;
          reject(asError(error));
        });
    });
  }

  /** Ends every wait. */
  abort(): void {
    this.#secondOver.abort();
    this.#recoverOver?.abort();
  }

  async blocktime(): Promise<PostcopyBlocktime | undefined> {
    return (await this.#listening?.statistics())?.blocktime;
  }

  async #takeUp(listening: PostcopyListening, { source, returnPath, more }: IncomingChannel): Promise<void> {
    if (returnPath === undefined) {
      await source.close();
      throw new UsageError("A postcopy migration is recovered over a connection that goes both ways", {
        hint: "use a socket",
      });
    }
    const preempt = this.#second(more);
    const connection: PostcopyConnection = {
      main: source,
      returnPath,
      ...(preempt === undefined ? {} : { preempt }),
    };
    await listening.recover(connection);
  }

  /** The second connection of the source, where it makes one; nobody else may make one. */
  #second(more: ConnectionsToCome | undefined): PostcopyConnection["preempt"] {
    this.#secondOver.abort();
    this.#secondOver = new AbortController();
    if (more === undefined) return undefined;
    if (!this.#context.preempt()) {
      void more.close();
      return undefined;
    }
    const second = more.accept(this.#secondOver.signal).finally(() => more.close());
    // It is waited for only when the migration goes over to postcopy.
    second.catch(() => undefined);
    return second;
  }

  #onStatus(status: PostcopyStatus, error: Error | undefined): void {
    const { state } = this.#context;
    this.#error = error?.message;
    switch (status) {
      case "postcopy-active":
        // It listens, and loads its devices; it is active when they are loaded.
        state.enter(state.status === "active" ? "postcopy-device" : "postcopy-active");
        return;
      case "postcopy-paused":
        this.#secondOver.abort();
        state.enter(status);
        return;
      case "postcopy-recover":
        state.enter(status);
        return;
      case "completed":
      case "failed":
        // The load says so itself.
        this.abort();
    }
  }
}

/** QEMU's fields of `query-migrate` for how long the guest waited for pages. */
export function blocktimeInfo(blocktime: PostcopyBlocktime): Partial<MigrationInfo> {
  return {
    "postcopy-blocktime": Math.round(blocktime.allBlockedMs),
    "postcopy-vcpu-blocktime": blocktime.processorMs.map((ms) => Math.round(ms)),
    "postcopy-latency": Math.round(blocktime.latencyNs),
    "postcopy-vcpu-latency": blocktime.processorLatencyNs,
    "postcopy-latency-dist": blocktime.latencyDistribution,
  };
}

/** For a machine that has no `MigrationHost.postcopy`. */
export function cannotPostcopy(): MachineError {
  return new MachineError("not-capable", "This machine cannot run while pages of its memory are missing", {
    hint: "turn postcopy-ram off at both sides",
  });
}
