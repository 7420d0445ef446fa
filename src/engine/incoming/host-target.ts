import { assert, FormatError } from "../../errors/index.js";
import {
  type Configuration,
  type RamBlockEntry,
  type RamRecordSink,
  type SectionHeader,
  SectionType,
  type StreamTail,
} from "../../wire/index.js";
import { checkGuest, loadGuest, type MigratedGuest, splitGlobalState } from "../global-state.js";
import type { DeviceState, MigrationHost } from "../host.js";
import type { MigrationTarget } from "../migration-target.js";
import { isDescribed } from "./described-tail.js";
import { checkConfiguration, checkPageSize, type IncomingRules, matchBlocks } from "./host-checks.js";
import { HostRam } from "./host-ram.js";

/** A block of the stream, where it goes, and where its pages are noted. */
export interface LoadingRam {
  /** In the stream's order. */
  readonly blocks: readonly (RamBlockEntry & {
    /** Place in the host's list. */
    readonly index: number;
    readonly travels: boolean;
  })[];
  readonly ram: HostRam;
}

/**
 * Loads a stream into an embedded machine: RAM as it comes, devices once all of them are there and fit. Until the first
 * page nothing of the machine is changed.
 */
export class HostTarget implements MigrationTarget {
  readonly #host: MigrationHost;
  readonly #rules: IncomingRules;
  #loading: LoadingRam | undefined;
  #guest: MigratedGuest = { devices: [], wasRunning: false, wasSuspended: false };

  constructor(host: MigrationHost, rules: IncomingRules) {
    this.#host = host;
    this.#rules = rules;
  }

  /** What the source's guest did. */
  get guest(): Omit<MigratedGuest, "devices"> {
    return this.#guest;
  }

  /** Pages as they came, each time. */
  get pages(): { readonly normal: number; readonly zero: number } {
    return this.#loading?.ram.counts ?? { normal: 0, zero: 0 };
  }

  /** The blocks and what has come of them; undefined before the block list. */
  get loading(): LoadingRam | undefined {
    return this.#loading;
  }

  configuration(configuration: Configuration | undefined): void {
    checkConfiguration(this.#host, configuration, this.#rules);
  }

  verbatim(bytes: Uint8Array, offset: number): void {
    // Commands have done what they do; a section is a device's.
    if (bytes[0] === SectionType.COMMAND) return;
    throw new FormatError("unsupported", "The migration has a device in front of its memory", { offset });
  }

  ramStart(_header: SectionHeader, blocks: readonly RamBlockEntry[], pageSize: number): RamRecordSink {
    checkPageSize(this.#host, pageSize);
    const matches = matchBlocks(this.#host, blocks, this.#rules);
    const matched = blocks.map((block, place) => {
      const match = matches[place];
      assert(match !== undefined, "a match for each block");
      return { ...block, ...match };
    });
    const ram = new HostRam(this.#host, matched);
    ram.refresh();
    this.#loading = { blocks: matched, ram };
    return ram;
  }

  ramSectionEnd(): void {
    this.#loading?.ram.refresh();
  }

  tail(tail: StreamTail, bytes: Uint8Array): void {
    const guest = splitGlobalState(devicesOf(tail, bytes));
    checkGuest(this.#host, guest);
    this.#guest = guest;
  }

  /** Replaces the state of the devices: the machine is then the source's. */
  load(): void {
    this.#loading?.ram.clearUnreceived();
    loadGuest(this.#host, this.#guest);
  }
}

/**
 * The device sections of a tail, with payloads that are views of `bytes`.
 *
 * @throws FormatError `inconsistent` when the description does not delimit each of them, as that of an embedded machine
 *   does.
 */
export function devicesOf(tail: StreamTail, bytes: Uint8Array): DeviceState[] {
  if (!isDescribed(tail)) {
    throw new FormatError("inconsistent", "The description does not fit the devices that came", {
      hint: "the migration may have been broken off",
    });
  }
  return tail.sections.map(({ name, instance, version, payloadOffset, payloadLength }) => {
    const at = payloadOffset - tail.baseOffset;
    return { name, instance, version, payload: bytes.subarray(at, at + payloadLength), fields: [] };
  });
}
