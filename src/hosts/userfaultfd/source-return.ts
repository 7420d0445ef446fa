import { detachConnection, type DetachedConnection, openIncoming } from "../../channels/index.js";
import { asError } from "../../errors/as-error.js";
import { assert } from "../../errors/index.js";
import { complain } from "./complain.js";
import type { SocketUri } from "./local-address.js";

/** A source that came back. */
export interface ReturnedSource {
  readonly main: DetachedConnection;
  /** The second connection that it makes, with `postcopy-preempt`. */
  readonly preempt?: Promise<DetachedConnection>;
}

/** What {@link SourceReturn} needs. */
export interface SourceReturnOptions {
  /** Where the source was waited for; undefined when nothing is known of that. */
  readonly address: SocketUri | undefined;
  /** Whether it makes a second connection. */
  readonly preempt: boolean;
  /** Goes on with the migration. Rejects when that fails: the source is then waited for again. */
  recover(source: ReturnedSource): Promise<void>;
}

/**
 * Waits for the source of a paused migration where it was waited for at first. The guest's thread, which otherwise takes
 * `migrate-recover`, may wait for a page itself: then nobody else could.
 */
export class SourceReturn {
  readonly #options: SourceReturnOptions;
  #over: AbortController | undefined;
  /** Ends the wait for a second connection, which outlasts that for the first. */
  #secondOver = new AbortController();

  constructor(options: SourceReturnOptions) {
    this.#options = options;
  }

  /** Begins to wait, unless it does already. */
  begin(): void {
    if (this.#over !== undefined) return;
    this.#over = new AbortController();
    this.#secondOver.abort();
    this.#secondOver = new AbortController();
    void this.#wait(this.#over.signal);
  }

  /** Ends the wait. */
  end(): void {
    this.#over?.abort();
    this.#over = undefined;
  }

  async #wait(signal: AbortSignal): Promise<void> {
    const { address } = this.#options;
    if (address === undefined) {
      say("and where its source could come back to is not known");
      return;
    }
    while (this.#isWaiting(signal)) {
      try {
        await this.#options.recover(await this.#accept(address, signal));
        return;
      } catch (error) {
        if (!this.#isWaiting(signal)) return;
        say(`and it did not go on: ${asError(error).message}`);
        // What fails at once would fail at once again.
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  /** Whether that wait was not ended. */
  #isWaiting(signal: AbortSignal): boolean {
    return this.#over?.signal === signal;
  }

  async #accept(address: SocketUri, signal: AbortSignal): Promise<ReturnedSource> {
    const { source, more } = await openIncoming(address, {
      several: true,
      signal,
      onListening: (uri) => say(`its source can resume at ${uri}`),
    });
    const main = await detached(source);
    if (more === undefined || !this.#options.preempt) {
      await more?.close();
      return { main };
    }
    const preempt = more
      .accept(this.#secondOver.signal)
      .then(detached)
      .finally(() => more.close());
    preempt.catch(() => undefined);
    return { main, preempt };
  }
}

async function detached(channel: Parameters<typeof detachConnection>[0]): Promise<DetachedConnection> {
  const connection = await detachConnection(channel);
  assert(connection !== undefined, "a socket without TLS");
  return connection;
}

function say(what: string): void {
  complain(`The guest waits for a page of a migration that is paused: ${what}`);
}
