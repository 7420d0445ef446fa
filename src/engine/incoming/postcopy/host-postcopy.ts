import type { ByteSink, ByteSource } from "../../../channels/index.js";
import { asError } from "../../../errors/as-error.js";
import { assert, FormatError, MachineError, UsageError } from "../../../errors/index.js";
import { type PostcopyAdvice, RAM_SECTION, type RamDiscard } from "../../../wire/index.js";
import { PostcopyPing } from "../../postcopy/pings.js";
import { checkGuest, loadGuest, type MigratedGuest, splitGlobalState } from "../../global-state.js";
import type { MigrationHost } from "../../host.js";
import type {
  PostcopyBlock,
  PostcopyEvents,
  PostcopyHost,
  PostcopyListening,
  PostcopyStatistics,
} from "../../postcopy/postcopy-host.js";
import type { IncomingRules } from "../host-checks.js";
import type { HostTarget, LoadingRam } from "../host-target.js";
import { sendRefusal } from "../return-path-answers.js";
import { parsePackage, type PostcopyPackage } from "./package.js";
import type { PostcopyTakeOver, StreamPlace } from "./take-over.js";

/** How a migration is loaded that goes over to postcopy. */
export interface LoadPostcopyOptions {
  /** The capability `postcopy-ram`: where it is off, a source that may go over to postcopy is refused. Default true. */
  readonly isEnabled?: boolean;
  /** The source's second connection, with `postcopy-preempt`: when it is made. */
  readonly preempt?: Promise<ByteSource>;
  readonly events?: PostcopyEvents;
  /** It listens: pages come, and the devices are not loaded yet. To pause it, to recover it, to see how it stands. */
  readonly onListening?: (listening: PostcopyListening) => void;
  /** The devices are loaded, and the guest may run while pages are missing. */
  readonly onRun?: (loaded: Omit<MigratedGuest, "devices">) => void | Promise<void>;
}

/** A guest that could be loaded, and what it is loaded from. */
interface UnpackedGuest {
  readonly blocks: PostcopyBlock[];
  readonly content: PostcopyPackage;
  readonly guest: MigratedGuest;
  readonly returnPath: ByteSink;
}

/** What postcopy is for the load of an embedded machine. */
export class HostPostcopy implements PostcopyTakeOver {
  readonly #host: MigrationHost;
  readonly #target: HostTarget;
  readonly #source: ByteSource;
  readonly #returnPath: ByteSink | undefined;
  readonly #options: LoadPostcopyOptions;
  readonly #rules: IncomingRules;
  #advice: PostcopyAdvice | undefined;
  #listening: PostcopyListening | undefined;
  #guest: Omit<MigratedGuest, "devices"> = { wasRunning: false, wasSuspended: false };

  constructor(
    host: MigrationHost,
    target: HostTarget,
    source: ByteSource,
    returnPath: ByteSink | undefined,
    options: LoadPostcopyOptions,
    rules: IncomingRules,
  ) {
    this.#rules = rules;
    this.#host = host;
    this.#target = target;
    this.#source = source;
    this.#returnPath = returnPath;
    this.#options = options;
  }

  /** Whether the migration went over to postcopy. */
  get isTaken(): boolean {
    return this.#listening !== undefined;
  }

  /** What the source's guest did. */
  get guest(): Omit<MigratedGuest, "devices"> {
    return this.#guest;
  }

  advise(advice: PostcopyAdvice, offset: number): void {
    if (this.#options.isEnabled === false) {
      throw new UsageError(
        "The source may go over to postcopy, and the capability postcopy-ram is off here",
        {
          offset,
          hint: "set it the same way at both sides",
        },
      );
    }
    this.#advice = advice;
    const { postcopy, pageSize } = this.#host;
    // A machine that cannot takes what is then sent by precopy.
    if (postcopy === undefined) return;
    const blocks = this.#host.ramBlocks();
    const own = postcopy.hostPageSizes
      .filter((_, index) => !(this.#rules.ignoreShared && blocks[index]?.shared === true))
      .reduce((sizes, size) => sizes | size, 0);
    checkSame("host page sizes", advice.hostPageSizes, own, { offset });
    checkSame("target page sizes", advice.targetPageSize, pageSize, { offset });
    postcopy.prepare?.(this.#source);
  }

  discard({ block: name, ranges }: RamDiscard, offset: number): void {
    const hostPageSizes = this.#postcopy().hostPageSizes;
    const { blocks, ram } = this.#loading(offset);
    const place = blocks.findIndex((block) => block.name === name);
    const block = blocks[place];
    if (block?.travels !== true) {
      throw new FormatError("inconsistent", "Pages of a RAM block that does not migrate are discarded", {
        offset,
        block: name,
      });
    }
    const hostPageSize = hostPageSizes[block.index] ?? 0;
    for (const { start, length } of ranges) {
      if (start + length > block.usedLength || start % hostPageSize !== 0 || length % hostPageSize !== 0) {
        throw new FormatError("inconsistent", "What is discarded are no host pages of the RAM block", {
          offset,
          block: name,
          expected: `multiples of ${hostPageSize} below ${block.usedLength}`,
          actual: `${length} at 0x${start.toString(16)}`,
        });
      }
      ram.discard(place, start / this.#host.pageSize, (start + length) / this.#host.pageSize);
    }
  }

  async take(bytes: Uint8Array, offset: number, place: StreamPlace): Promise<void> {
    const host = this.#host;
    const taken = await this.#orRefuse(() => this.#unpack(bytes, offset));
    const { blocks, content, guest, returnPath } = taken;
    const { wasRunning, wasSuspended } = guest;
    this.#guest = { wasRunning, wasSuspended };
    const { preempt, events = {}, onListening, onRun } = this.#options;
    const listening = await this.#orRefuse(() =>
      this.#postcopy().listen(
        { blocks, targetPageSize: host.pageSize, preempt: preempt !== undefined, ...place },
        { main: this.#source, returnPath, ...(preempt === undefined ? {} : { preempt }) },
        events,
      ),
    );
    this.#listening = listening;
    // A source that is told when the devices are loaded keeps its guest until then; any other has given it away.
    const keepsGuest = content.pings.includes(PostcopyPing.PACKAGE_LOADED);
    try {
      onListening?.(listening);
      if (!keepsGuest) listening.running();
      loadGuest(host, guest);
      for (const value of content.pings) await listening.pong(value);
      if (keepsGuest) listening.running();
      await onRun?.(this.#guest);
    } catch (error) {
      listening.abort(asError(error));
      // The source is told before anybody closes its connection.
      await listening.ended.catch(() => undefined);
      throw error;
    }
  }

  /** What is in the package, as far as that can be known before it is loaded. */
  #unpack(bytes: Uint8Array, offset: number): UnpackedGuest {
    const blocks = this.#blocks(this.#postcopy(), offset);
    const returnPath = this.#returnPath;
    if (returnPath === undefined) {
      throw new MachineError("not-capable", "Postcopy needs a connection that goes both ways");
    }
    const content = parsePackage(bytes, offset);
    const guest = splitGlobalState(content.devices);
    checkGuest(this.#host, guest);
    return { blocks, content, guest, returnPath };
  }

  /** The source hears of what fails while its guest is its own. */
  async #orRefuse<T>(work: () => T | Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (this.#returnPath !== undefined) await sendRefusal(this.#returnPath);
      throw error;
    }
  }

  /** How it ended: rejects as `PostcopyListening.ended` does. */
  ended(): Promise<PostcopyStatistics> {
    assert(this.#listening !== undefined, "nothing listens");
    return this.#listening.ended;
  }

  /** Ends it for good. */
  abort(error: Error): void {
    this.#listening?.abort(error);
  }

  #postcopy(): PostcopyHost {
    const { postcopy } = this.#host;
    if (postcopy !== undefined) return postcopy;
    throw new MachineError("not-capable", "The machine cannot run while pages are missing", {
      hint: "do not start postcopy at the source",
    });
  }

  #loading(offset: number): LoadingRam {
    const { loading } = this.#target;
    if (loading !== undefined) return loading;
    throw new FormatError("malformed", "Postcopy begins before the block list has come", { offset });
  }

  /** The blocks with what came of them, and whether both sides have them in pages of the same size. */
  #blocks({ hostPageSizes }: PostcopyHost, offset: number): PostcopyBlock[] {
    const { blocks, ram } = this.#loading(offset);
    const advised = this.#advice?.hostPageSizes ?? 0;
    // What the block list does not say is the ordinary page size: the smallest there is.
    const ordinary = advised & -advised;
    return blocks.map(({ name, usedLength, index, hostPageSize: theirs = ordinary }, place) => {
      const hostPageSize = hostPageSizes[index];
      assert(hostPageSize !== undefined, "a host page size for each block");
      checkSame("host page sizes", theirs, hostPageSize, { offset, block: name });
      if (usedLength % hostPageSize !== 0) {
        throw new FormatError("inconsistent", "A RAM block is no multiple of its host pages", {
          offset,
          block: name,
          expected: `a multiple of ${hostPageSize}`,
          actual: usedLength,
        });
      }
      return { name, index, usedLength, hostPageSize, received: ram.received(place)?.toBytes() };
    });
  }
}

function checkSame(
  what: string,
  theirs: number,
  own: number,
  place: { readonly offset: number; readonly block?: string },
): void {
  if (theirs === own) return;
  throw new FormatError("inconsistent", `Postcopy needs the same ${what} on both sides`, {
    ...place,
    section: RAM_SECTION.name,
    expected: `0x${own.toString(16)}`,
    actual: `0x${theirs.toString(16)}`,
  });
}
