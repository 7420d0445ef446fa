import {
  type IncomingChannel,
  type MigrationUri,
  type OpenChannelOptions,
  openIncoming,
} from "../../channels/index.js";
import { asError } from "../../errors/as-error.js";
import { CancelledError, UsageError } from "../../errors/index.js";
import type { Capabilities, MigrationInfo, MigrationParameters, SocketAddress } from "../../qapi/index.js";
import type { Clock } from "../clock.js";
import type { MigrationHost } from "../host.js";
import type { IncomingRules } from "../incoming/host-checks.js";
import { loadHost } from "../incoming/load-host.js";
import { loadHostFromStream, type LoadStreamResult } from "../incoming/load-stream.js";
import { isInPostcopy, type MigrationState } from "../migration-states.js";
import type { PostcopyBlocktime } from "../postcopy/postcopy-host.js";
import { checkMultifd, fileChannels, fileDirectIo } from "./file-channels.js";
import { blocktimeInfo, IncomingPostcopy } from "./incoming-postcopy.js";

/** Options of {@link IncomingLoad}. */
export interface IncomingLoadOptions extends Pick<OpenChannelOptions, "descriptorSets"> {
  /** Asked when the migration comes: they may be set while the machine waits. */
  readonly capabilities: () => Capabilities;
  /** Asked when the file is opened, and when the migration comes. */
  readonly parameters: () => MigrationParameters;
  readonly onLoaded?: (loaded: { readonly wasRunning: boolean }) => void | Promise<void>;
  readonly clock?: Clock;
}

/** The destination's side of one migration: waits for it, loads it, and lets the machine know. */
export class IncomingLoad {
  readonly #host: MigrationHost;
  readonly #state: MigrationState;
  readonly #options: IncomingLoadOptions;
  readonly #over = new AbortController();
  readonly #postcopy: IncomingPostcopy;
  #blocktime: PostcopyBlocktime | undefined;
  #loaded = false;
  #addresses: readonly SocketAddress[] = [];
  #error: string | undefined;

  constructor(host: MigrationHost, state: MigrationState, options: IncomingLoadOptions) {
    this.#host = host;
    this.#state = state;
    this.#options = options;
    this.#postcopy = new IncomingPostcopy({
      state,
      isEnabled: () => options.capabilities()["postcopy-ram"],
      preempt: () => options.capabilities()["postcopy-preempt"],
      onRun: (loaded) => {
        this.#loaded = true;
        return options.onLoaded?.(loaded);
      },
    });
  }

  /** Whether the machine is the source's by now. */
  get isLoaded(): boolean {
    return this.#loaded;
  }

  get info(): MigrationInfo {
    const { status } = this.#state;
    const error = this.#error ?? this.#postcopy.error;
    const listens = status === "setup" || isInPostcopy(status);
    return {
      status,
      ...(error === undefined ? {} : { "error-desc": error }),
      ...(listens && this.#addresses.length > 0 ? { "socket-address": this.#addresses } : {}),
      ...(this.#blocktime === undefined ? {} : blocktimeInfo(this.#blocktime)),
    };
  }

  /**
   * Listens, or opens the file; the load goes on in the background.
   *
   * @returns A promise of how it ends, in an object because it is not to be waited for here.
   * @throws UsageError; MachineError when there is nothing to load from.
   */
  begin(uri: MigrationUri): Promise<{ readonly ended: Promise<Error | undefined> }> {
    return new Promise((resolve, reject) => {
      let begun = false;
      const begin = (): void => {
        begun = true;
        this.#state.enter("setup");
        resolve({ ended });
      };
      const { descriptorSets, capabilities, parameters } = this.#options;
      const channel = openIncoming(uri, {
        signal: this.#over.signal,
        directIo: fileDirectIo(capabilities(), parameters()),
        several: capabilities()["postcopy-preempt"],
        ...(descriptorSets === undefined ? {} : { descriptorSets }),
        onListening: (address) => {
          this.#addresses = socketAddress(address);
          begin();
        },
      });
      const ended = channel.then(
        (opened) => {
          if (!begun) begin();
          return this.#take(opened);
        },
        (error: unknown) => {
          if (!begun) {
            reject(asError(error));
            return undefined;
          }
          return this.#fail(error);
        },
      );
    });
  }

  /** Breaks the load off, or the wait for it. */
  abort(): void {
    this.#over.abort();
    this.#postcopy.abort();
  }

  /** Breaks the connection of a migration in postcopy. */
  pause(): void {
    this.#postcopy.pause();
  }

  /**
   * Waits for the source of a paused migration at another address. Resolves when it listens there.
   *
   * @throws UsageError when it is not paused; MachineError when it cannot listen.
   */
  recover(uri: MigrationUri): Promise<void> {
    return this.#postcopy.recover(uri, (address) => {
      this.#addresses = socketAddress(address);
    });
  }

  async #take(channel: IncomingChannel): Promise<Error | undefined> {
    try {
      this.#state.enter("active");
      const { wasRunning, postcopy } = await this.#load(channel);
      if (postcopy === undefined) {
        this.#loaded = true;
        await this.#options.onLoaded?.({ wasRunning });
      } else if (this.#options.capabilities()["postcopy-blocktime"]) this.#blocktime = postcopy.blocktime;
      this.#state.enter("completed");
      return undefined;
    } catch (error) {
      return this.#fail(error);
    } finally {
      this.#postcopy.abort();
      await channel.source.close();
    }
  }

  #load({
    source,
    returnPath,
    file,
    more,
  }: IncomingChannel): Promise<Pick<LoadStreamResult, "wasRunning" | "postcopy">> {
    const capabilities = this.#options.capabilities();
    checkMultifd(capabilities);
    const { signal } = this.#over;
    const rules: IncomingRules = {
      ignoreShared: capabilities["x-ignore-shared"],
    };
    if (!capabilities["mapped-ram"]) {
      const { clock } = this.#options;
      return loadHostFromStream(this.#host, source, {
        rules,
        signal,
        postcopy: this.#postcopy.load(more),
        ...(returnPath === undefined ? {} : { returnPath }),
        ...(clock === undefined ? {} : { clock }),
      });
    }
    if (file === undefined) {
      throw new UsageError("A mapped-ram migration comes from a file that can be read at any place", {
        hint: "use file:PATH, or turn mapped-ram off",
      });
    }
    const channels = fileChannels(capabilities, this.#options.parameters());
    return loadHost(this.#host, file, {
      rules,
      signal,
      streamOffset: file.startOffset,
      ...(channels === undefined ? {} : { channels }),
    });
  }

  #fail(error: unknown): Error {
    const failure = error instanceof Error ? error : new CancelledError(undefined, error);
    this.#error = failure.message;
    this.#state.enter("failed");
    return failure;
  }
}

function socketAddress(uri: string): SocketAddress[] {
  if (uri.startsWith("unix:")) return [{ type: "unix", path: uri.slice("unix:".length) }];
  const groups = /^tcp:\[?(?<host>.*?)\]?:(?<port>\d+)$/.exec(uri)?.groups;
  return groups === undefined ? [] : [{ type: "inet", host: groups.host ?? "", port: groups.port ?? "" }];
}
