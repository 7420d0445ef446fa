import {
  type ByteSink,
  type DescriptorSets,
  type MigrationUri,
  type OpenChannelOptions,
  openOutgoing,
  type OutgoingChannel,
} from "../../channels/index.js";
import { asError } from "../../errors/as-error.js";
import { CancelledError, MachineError, UsageError } from "../../errors/index.js";
import {
  type Capabilities,
  type CapabilityChanges,
  checkCapabilities,
  checkParameters,
  DEFAULT_CAPABILITIES,
  DEFAULT_PARAMETERS,
  type KnownMigrationStatus,
  type MigrationInfo,
  type MigrationParameters,
  type MigrationRole,
  type MigrationTarget,
  type ParameterChanges,
} from "../../qapi/index.js";
import type { Clock } from "../clock.js";
import type { MigrationHost } from "../host.js";
import { isInPostcopy, MigrationState } from "../migration-states.js";
import { OutgoingMigration } from "../outgoing/outgoing-migration.js";
import { resolveAddress } from "./address.js";
import { checkMultifd, fileDirectIo } from "./file-channels.js";
import { IncomingLoad } from "./incoming-load.js";
import { cannotPostcopy } from "./incoming-postcopy.js";
import { isSocket, settled } from "./opening.js";
import { type OutgoingWay, outgoingWay, wayOfPostcopy } from "./outgoing-way.js";

/** What a machine wants to hear of its migrations. */
export interface MigrationControlOptions {
  /** Where a migration stands, each time that changes: QEMU's MIGRATION event. */
  readonly onStatus?: (status: KnownMigrationStatus) => void;
  /** Another pass over memory began, from 2: QEMU's MIGRATION_PASS event, which does not tell of the first one. */
  readonly onPass?: (pass: number) => void;
  /** An incoming migration has loaded: the machine decides whether the guest runs now. */
  readonly onLoaded?: (loaded: { readonly wasRunning: boolean }) => void | Promise<void>;
  /** The guest was stopped for the switch-over; or goes on because the migration did not end well. */
  readonly onGuest?: (change: "stopped" | "resumed") => void;
  /** What `file:/dev/fdset/N` stands for. */
  readonly descriptorSets?: DescriptorSets;
  readonly clock?: Clock;
}

/**
 * The migrations of one machine, as QEMU's monitor commands see them: settings, one migration at a time in either
 * direction, and what is to be told about it.
 */
export class MigrationControl {
  readonly #host: MigrationHost;
  readonly #options: MigrationControlOptions;
  readonly #state: MigrationState;
  #capabilities: Capabilities = DEFAULT_CAPABILITIES;
  #parameters: MigrationParameters = DEFAULT_PARAMETERS;
  #outgoing: OutgoingMigration | undefined;
  #way: OutgoingWay | undefined;
  #incoming: IncomingLoad | undefined;
  /** While the way is opened. */
  #opening: AbortController | undefined;
  /** Whether the last migration that began was an outgoing one. */
  #hasLeft = false;
  /** Postcopy was asked for before the way was open. */
  #wantsPostcopy = false;
  #error: string | undefined;
  #ended: Promise<Error | undefined> = Promise.resolve(undefined);

  constructor(host: MigrationHost, options: MigrationControlOptions = {}) {
    this.#host = host;
    this.#options = options;
    this.#state = new MigrationState(options.onStatus);
  }

  get capabilities(): Capabilities {
    return this.#capabilities;
  }

  get parameters(): MigrationParameters {
    return this.#parameters;
  }

  /** An incoming migration was announced and has not been loaded. */
  get isIncoming(): boolean {
    return this.#incoming?.isLoaded === false;
  }

  /** @throws UsageError when they do not go together, are not supported, or a migration is under way. */
  setCapabilities(changes: CapabilityChanges): void {
    this.#capabilities = checkCapabilities(changes, this.#capabilities, this.#parameters, this.#role);
  }

  /**
   * Takes effect on a migration that is under way, too.
   *
   * @throws UsageError when a value is out of its range, not supported, or does not go with what else is set.
   */
  setParameters(changes: ParameterChanges): void {
    const parameters = checkParameters(changes, this.#parameters, this.#capabilities);
    // May be refused, and nothing is set then.
    this.#way?.xbzrle?.resize(parameters["xbzrle-cache-size"]);
    this.#parameters = parameters;
  }

  /**
   * Begins an outgoing migration. Resolves once it is under way, or has failed to reach the destination: how it ends is
   * told by {@link ended} and {@link info}.
   *
   * @throws UsageError when it cannot begin; MachineError when a file or command cannot be opened.
   */
  async migrate(target: MigrationTarget): Promise<void> {
    if (this.isIncoming) throw new UsageError("The machine waits for an incoming migration itself");
    if (this.#state.underWay) throw new UsageError("A migration is under way already");
    const uri = resolveAddress(target);
    checkMultifd(this.#capabilities);
    this.#outgoing = undefined;
    this.#error = undefined;
    this.#hasLeft = true;
    this.#wantsPostcopy = false;
    const opening = new AbortController();
    this.#opening = opening;
    this.#state.enter("setup");
    try {
      // The last one tells how it ended before it has emptied its file, which may be the same one.
      await settled(this.#ended, opening.signal);
      this.#way = await this.#open(uri, opening.signal);
    } catch (error) {
      this.#failedToOpen(error, opening.signal);
      // A destination that is not there is found out by QEMU when the command has returned.
      if (isSocket(uri) || opening.signal.aborted) return;
      throw error;
    } finally {
      this.#opening = undefined;
    }
    this.#ended = this.#run(this.#way);
  }

  /**
   * Waits for an incoming migration. Resolves once the machine listens, or the file is open.
   *
   * @param target Where; a machine waits once in its life.
   * @throws UsageError when it cannot begin; MachineError when it cannot listen.
   */
  async incoming(target: MigrationTarget): Promise<void> {
    if (this.#incoming !== undefined) throw new UsageError("The machine had its incoming migration already");
    if (this.#state.underWay) throw new UsageError("A migration is under way already");
    if (this.#host.running) throw new UsageError("The guest runs, and an incoming migration replaces it");
    checkMultifd(this.#capabilities);
    if (this.#capabilities["postcopy-ram"] && this.#host.postcopy === undefined) throw cannotPostcopy();
    const load = new IncomingLoad(this.#host, this.#state, {
      capabilities: () => this.#capabilities,
      parameters: () => this.#parameters,
      ...this.#channelOptions,
      ...(this.#options.onLoaded === undefined ? {} : { onLoaded: this.#options.onLoaded }),
      ...(this.#options.clock === undefined ? {} : { clock: this.#options.clock }),
    });
    const uri = resolveAddress(target);
    this.#incoming = load;
    try {
      this.#ended = (await load.begin(uri)).ended;
    } catch (error) {
      // Nothing was touched: it may be tried again elsewhere.
      this.#incoming = undefined;
      throw error;
    }
  }

  /**
   * Ends an outgoing migration, with the guest running on. While there is none it does nothing.
   *
   * @throws UsageError in postcopy: the guest is the destination's.
   */
  cancel(): void {
    if (this.#outgoing === undefined || !isInPostcopy(this.#state.status)) this.#opening?.abort();
    this.#outgoing?.cancel();
  }

  /**
   * Lets the guest of an outgoing migration go over to the destination as soon as it can (`migrate-start-postcopy`). Does
   * nothing when the migration has ended meanwhile.
   *
   * @throws UsageError when there never was a migration, or `postcopy-ram` is off.
   */
  startPostcopy(): void {
    if (!this.#capabilities["postcopy-ram"]) {
      throw new UsageError("The migration cannot go over to postcopy: the capability postcopy-ram is off", {
        hint: "turn it on at both sides before the migration starts",
      });
    }
    if (this.#state.status === "none") {
      throw new UsageError("Postcopy can be started only after the migration was");
    }
    this.#wantsPostcopy = true;
    this.#outgoing?.startPostcopy();
  }

  /**
   * Breaks the connection of a migration in postcopy, as if the network had (`migrate-pause`).
   *
   * @throws UsageError but in `postcopy-active` and `postcopy-recover`.
   */
  pause(): void {
    const { status } = this.#state;
    if (status !== "postcopy-active" && status !== "postcopy-recover") {
      throw new UsageError("Only a migration in postcopy-active or postcopy-recover can be paused", {
        actual: status,
      });
    }
    if (this.#outgoing === undefined) this.#incoming?.pause();
    else this.#outgoing.pause();
  }

  /**
   * Waits at another address for the source of an incoming migration that is paused in postcopy (`migrate-recover`). Resolves
   * when it listens there.
   *
   * @throws UsageError when it is not paused; MachineError when it cannot listen.
   */
  async recover(target: MigrationTarget): Promise<void> {
    const incoming = this.#outgoing === undefined ? this.#incoming : undefined;
    if (incoming === undefined || this.#state.status !== "postcopy-paused") {
      throw new UsageError("Only an incoming migration that is paused in postcopy can be recovered", {
        actual: this.#state.status,
      });
    }
    await incoming.recover(resolveAddress(target));
  }

  /**
   * Goes on with an outgoing migration that is paused in postcopy (`migrate` with `resume`). Resolves once it is connected,
   * or is paused again because nobody was there: {@link info} says so.
   *
   * @throws UsageError when it is not paused, or the way is none for postcopy.
   */
  async resume(target: MigrationTarget): Promise<void> {
    const outgoing = this.#outgoing;
    if (outgoing === undefined || this.#state.status !== "postcopy-paused") {
      throw new UsageError("There is no paused postcopy migration that could be resumed");
    }
    const uri = resolveAddress(target);
    const opening = new AbortController();
    this.#opening = opening;
    this.#state.enter("postcopy-recover-setup");
    let channel: OutgoingChannel | undefined;
    try {
      channel = await this.#openChannel(uri, opening.signal);
      outgoing.resume(wayOfPostcopy(channel, this.#capabilities, this.#openAgain(uri)));
    } catch (error) {
      await channel?.sink.close();
      outgoing.resume(undefined, asError(error));
      if (!isSocket(uri) && !opening.signal.aborted) throw error;
    } finally {
      this.#opening = undefined;
    }
  }

  /**
   * Goes on with a migration that waits before its switch-over (`migrate-continue`).
   *
   * @param state Which state it is thought to be in: `pre-switchover`.
   * @throws UsageError when it is not.
   */
  continue(state: string): void {
    if (state !== this.#state.status || this.#outgoing === undefined) {
      throw new UsageError("The migration is in another state", {
        expected: state,
        actual: this.#state.status,
      });
    }
    this.#outgoing.continue();
  }

  /** The answer to `query-migrate`. */
  info(): MigrationInfo {
    const { status } = this.#state;
    if (status === "none") return {};
    if (this.#outgoing !== undefined) return { ...this.#outgoing.info, ...this.#errorField };
    if (this.#incoming !== undefined && !this.#hasLeft) return this.#incoming.info;
    return { status, ...this.#errorField };
  }

  get #errorField(): Pick<MigrationInfo, "error-desc"> {
    return this.#error === undefined ? {} : { "error-desc": this.#error };
  }

  /** Settles when the migration that is under way has ended: with undefined if well, else with why not. Never rejects. */
  ended(): Promise<Error | undefined> {
    return this.#ended;
  }

  /** Ends whatever is under way, because the machine goes. */
  async close(): Promise<void> {
    this.#opening?.abort();
    this.#outgoing?.abandon();
    this.#incoming?.abort();
    await this.#ended;
  }

  get #role(): MigrationRole {
    if (this.isIncoming) return "incoming";
    return this.#state.underWay ? "outgoing" : "idle";
  }

  get #channelOptions(): Pick<OpenChannelOptions, "descriptorSets"> {
    const { descriptorSets } = this.#options;
    return descriptorSets === undefined ? {} : { descriptorSets };
  }

  async #open(uri: MigrationUri, signal: AbortSignal): Promise<OutgoingWay> {
    const channel = await this.#openChannel(uri, signal);
    const { clock } = this.#options;
    try {
      return outgoingWay(this.#host, channel, this.#capabilities, this.#parameters, {
        openAgain: this.#openAgain(uri),
        parameters: () => this.#parameters,
        ...(clock === undefined ? {} : { clock }),
      });
    } catch (error) {
      await channel.sink.close();
      throw error;
    }
  }

  async #openChannel(uri: MigrationUri, signal: AbortSignal): Promise<OutgoingChannel> {
    const channel = await openOutgoing(uri, {
      signal,
      directIo: fileDirectIo(this.#capabilities, this.#parameters),
      ...this.#channelOptions,
    });
    if (!signal.aborted) return channel;
    await channel.sink.close();
    throw new CancelledError(undefined, signal.reason);
  }

  /** Another connection to the same place. */
  #openAgain(uri: MigrationUri): (signal: AbortSignal) => Promise<ByteSink> {
    return async (signal) => (await this.#openChannel(uri, signal)).sink;
  }

  #failedToOpen(error: unknown, signal: AbortSignal): void {
    const failure = asError(error);
    this.#error = signal.aborted ? undefined : failure.message;
    this.#ended = Promise.resolve(failure);
    this.#state.enter(signal.aborted ? "cancelling" : "failing");
    this.#state.enter(signal.aborted ? "cancelled" : "failed");
  }

  async #run(way: OutgoingWay): Promise<Error | undefined> {
    const { onPass, onGuest, clock } = this.#options;
    this.#outgoing = new OutgoingMigration(this.#host, way.target, {
      capabilities: this.#capabilities,
      parameters: () => this.#parameters,
      state: this.#state,
      ...(way.xbzrle === undefined ? {} : { xbzrle: way.xbzrle }),
      ...(way.postcopy === undefined ? {} : { postcopy: way.postcopy }),
      onPass: (pass) => {
        if (pass > 1) onPass?.(pass);
      },
      ...(onGuest === undefined ? {} : { onGuest }),
      ...(clock === undefined ? {} : { clock }),
    });
    if (this.#wantsPostcopy) this.#outgoing.startPostcopy();
    try {
      await this.#outgoing.run();
    } catch (error) {
      return await this.#discard(way, error instanceof Error ? error : new CancelledError(undefined, error));
    } finally {
      this.#way = undefined;
    }
    // Everything has arrived: nothing that closing says changes that.
    await way.close().catch(() => undefined);
    return undefined;
  }

  /** Leaves nothing that looks whole; where that fails, whoever asks must hear of it. Returns why the migration ended. */
  async #discard(way: OutgoingWay, failure: Error): Promise<Error> {
    try {
      await way.discard();
      return failure;
    } catch (cause) {
      const what = "What the migration had written could not be removed, and must not be used";
      this.#error = `${failure.message}. ${what}: ${asError(cause).message}`;
      return new MachineError("io", what, {}, failure);
    }
  }
}
