/** A guest that goes over at any moment, over connections that break at any byte: one runs at most, and its memory is right. */

import { describe, expect, test } from "vitest";

import type { ByteChannel } from "../../../../src/channels/index.js";
import { loadHostFromStream } from "../../../../src/engine/incoming/load-stream.js";
import { MigrationState } from "../../../../src/engine/migration-states.js";
import { OutgoingMigration } from "../../../../src/engine/outgoing/outgoing-migration.js";
import {
  OutgoingPostcopy,
  type PostcopyWay,
} from "../../../../src/engine/outgoing/postcopy/outgoing-postcopy.js";
import { StreamTarget } from "../../../../src/engine/outgoing/stream-target.js";
import type { PostcopyConnection, PostcopyListening } from "../../../../src/engine/postcopy/postcopy-host.js";
import { DEFAULT_CAPABILITIES, DEFAULT_PARAMETERS } from "../../../../src/qapi/index.js";
import { type BreakableLink, breakableLink } from "../../../support/breakable-link.js";
import { PostcopyToyHost } from "../../../support/postcopy-host.js";
import { Random } from "../../../support/random.js";
import { FakeHost } from "../../fake-host.js";

const PAGE = 4096;
const MIB = 1 << 20;
/** A migration of all pages has some 2.3 MB. */
const MOST_BYTES = 2_600_000;
const SEEDS = Number(process.env.RAMPORT_POSTCOPY_RUNS ?? 80);

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** What was written before its end was closed arrives, as over a socket. */
function lasting(link: BreakableLink): BreakableLink {
  const lastingEnd = (end: ByteChannel): ByteChannel => ({
    read: (target) => end.read(target),
    write: (bytes) => end.write(bytes),
    end: () => end.end(),
    close: async () => {
      for (let turns = 0; turns < 20; turns++) await turn();
      await end.close();
    },
  });
  return { ...link, far: lastingEnd(link.far) };
}

/** How one run ended. */
interface Outcome {
  readonly source: FakeHost;
  readonly destination: PostcopyToyHost;
  readonly status: string;
  readonly statuses: readonly string[];
  readonly loaded: "yes" | "no";
  readonly recoveries: number;
}

class Run {
  readonly #random: Random;
  readonly #source = new FakeHost();
  readonly #destination: PostcopyToyHost;
  readonly #statuses: string[] = [];
  readonly #state = new MigrationState((status) => this.#onStatus(status));
  readonly #preempt: boolean;
  #breaks = 4;
  #listening: PostcopyListening | undefined;
  #second: ((link: BreakableLink) => void) | undefined;

  constructor(seed: number) {
    this.#random = new Random(seed * 97 + 13);
    this.#preempt = this.#random.below(2) === 0;
    const blocks = this.#source.ramBlocks();
    this.#destination = new PostcopyToyHost(
      "fake",
      blocks.map(({ name, usedLength }) => ({ name, usedLength, hostPageSize: PAGE })),
    );
  }

  async run(): Promise<Outcome> {
    const random = this.#random;
    const source = this.#source;
    for (let page = 0; page < 450; page++)
      source.ram[page & 1]!.fill(page, (page >> 1) * PAGE, ((page >> 1) + 1) * PAGE);
    source.guest = () => {
      for (let write = random.below(6); write > 0; write--)
        source.ram[random.below(2)]![random.below(MIB)] = random.below(256);
    };
    await source.run();
    const state = this.#state;
    const { way, connection } = this.#connect();
    const parameters = { ...DEFAULT_PARAMETERS, "max-bandwidth": 0, "downtime-limit": 0 };
    const options = { parameters: () => parameters };
    const postcopy = new OutgoingPostcopy(source, way, options);
    const target = new StreamTarget(way.main, { postcopy: postcopy.preparation });
    const capabilities = { ...DEFAULT_CAPABILITIES, "postcopy-ram": true, "postcopy-preempt": this.#preempt };
    const migration = new OutgoingMigration(source, target, { ...options, capabilities, state, postcopy });
    const loading = this.#load(connection);
    const migrated = migration.run().catch((error: unknown) => error);
    void this.#startPostcopy(migration);
    const recoveries = await this.#mend(migration, loading, migrated);
    const loaded = await loading;
    await migrated;
    return {
      source,
      destination: this.#destination,
      status: state.status,
      statuses: this.#statuses,
      loaded,
      recoveries,
    };
  }

  #onStatus(status: string): void {
    this.#statuses.push(status);
    if (this.#source.running && this.#destination.running) throw new Error("two guests run");
  }

  /** At any moment, also before the first piece. */
  async #startPostcopy(migration: OutgoingMigration): Promise<void> {
    const most = this.#random.below(3) === 0 ? 40 : 4;
    for (let turns = this.#random.below(most); turns > 0; turns--) await turn();
    migration.startPostcopy();
  }

  /** A connection that breaks somewhere, or not. */
  #link(): BreakableLink {
    const capacity = 1 << (8 + this.#random.below(12));
    if (this.#breaks === 0 || this.#random.below(3) === 0) return lasting(breakableLink({ capacity }));
    this.#breaks -= 1;
    return lasting(breakableLink({ capacity, breakAfterBytes: this.#random.below(MOST_BYTES) }));
  }

  #connect(): { readonly way: PostcopyWay; readonly connection: PostcopyConnection } {
    const { near, far } = this.#link();
    const second = new Promise<BreakableLink>((resolve) => (this.#second = resolve));
    const openPreempt = async (): Promise<BreakableLink["near"]> => {
      const link = this.#link();
      this.#second?.(link);
      await turn();
      return link.near;
    };
    return {
      way: { main: near, returnPath: near, ...(this.#preempt ? { openPreempt } : {}) },
      connection: {
        main: far,
        returnPath: far,
        ...(this.#preempt ? { preempt: second.then((link) => link.far) } : {}),
      },
    };
  }

  /** The destination's guest touches pages at random as soon as it runs. */
  async #load({ main, returnPath, preempt }: PostcopyConnection): Promise<"yes" | "no"> {
    const destination = this.#destination;
    try {
      const { postcopy } = await loadHostFromStream(destination, main, {
        returnPath,
        postcopy: {
          ...(preempt === undefined ? {} : { preempt }),
          onListening: (listening) => (this.#listening = listening),
          onRun: async () => {
            if (this.#source.running) throw new Error("two guests run");
            await destination.run();
            void this.#touch();
          },
        },
      });
      // It was all over before postcopy was wanted.
      if (postcopy === undefined) await destination.run();
      return "yes";
    } catch {
      await main.close();
      return "no";
    }
  }

  async #touch(): Promise<void> {
    const { memory } = this.#destination;
    for (let touch = 0; touch < 100 && !memory.hasEnded; touch++)
      await memory.touch(0, this.#random.below(2 * MIB));
  }

  /** Makes new connections as long as both sides are paused. Returns how many. */
  async #mend(
    migration: OutgoingMigration,
    loading: Promise<unknown>,
    migrated: Promise<unknown>,
  ): Promise<number> {
    const ended = { source: false, destination: false };
    void migrated.then(() => (ended.source = true));
    void loading.then(() => (ended.destination = true));
    let recoveries = 0;
    while (!ended.source) {
      await turn();
      if (migration.status !== "postcopy-paused") continue;
      if (ended.destination) {
        // The destination is done, or never began: nobody is there to resume with.
        migration.abandon();
        break;
      }
      const listening = this.#listening;
      if (listening === undefined) continue;
      const { way, connection } = this.#connect();
      const recovered = listening.recover(connection).catch(() => undefined);
      // What the control does before it has the connection.
      this.#state.enter("postcopy-recover-setup");
      migration.resume(way);
      recoveries += 1;
      await recovered;
    }
    return recoveries;
  }
}

describe("a seeded run", () => {
  test(`${SEEDS} seeds`, { timeout: 120_000 }, async () => {
    const seen = { completed: 0, failed: 0, recovered: 0, unheard: 0 };
    for (let seed = 0; seed < SEEDS; seed++) {
      const { source, destination, status, loaded, recoveries } = await new Run(seed).run();
      const what = `seed ${seed}: ${status}, loaded ${loaded}`;
      expect([source.running, destination.running], what).not.toEqual([true, true]);
      if (loaded === "yes") {
        // It may not have heard that all is well.
        expect(["completed", "postcopy-paused"], what).toContain(status);
        expect([source.running, destination.running], what).toEqual([false, true]);
        const memory = Buffer.concat(destination.memory.blocks.map(({ bytes }) => bytes));
        expect(memory.equals(source.memory()), what).toBe(true);
        seen[status === "completed" ? "completed" : "unheard"] += 1;
        if (recoveries > 0) seen.recovered += 1;
      } else {
        // Before the package had left, the guest goes on where it was; afterwards nobody can say that it may.
        expect(destination.running, what).toBe(false);
        expect(source.running, what).toBe(status === "failed");
        seen.failed += 1;
      }
      await source.stop();
    }
    expect(seen.completed).toBeGreaterThan(SEEDS / 4);
    expect(seen.recovered).toBeGreaterThan(0);
    expect(seen.failed).toBeGreaterThan(0);
  });
});
