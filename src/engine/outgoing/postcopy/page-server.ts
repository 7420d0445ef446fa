import type { ByteSink } from "../../../channels/index.js";
import { asError } from "../../../errors/as-error.js";
import { ByteWriter, encodeEndOfSection, type PageRequest, pingCommand } from "../../../wire/index.js";
import { type Clock, systemClock } from "../../clock.js";
import { PostcopyPing } from "../../postcopy/pings.js";
import { Alarm } from "./alarm.js";
import { BackgroundFill, FillRate, pagesIn } from "./background-fill.js";
import { type PostcopyConnection, tooEarly } from "./connection.js";
import { encodedCommand } from "./encoded-command.js";
import { HeadStart } from "./head-start.js";
import type { PageServerOptions } from "./page-server-options.js";
import { type FramedPages, PageRecords } from "./page-records.js";
import { checkHostPages, hostPageSizeIn, type PageSource } from "./page-source.js";
import { PageWriter } from "./page-writer.js";
import { PostcopyCounters, type PageServerStatistics } from "./postcopy-statistics.js";
import { RecordingWindow } from "./recording-window.js";
import { PageRequestQueue, type WantedPage } from "./request-queue.js";
import { type BlockRun, type PagePlace, SentPages } from "./sent-pages.js";

const CLUSTER_BYTES = 64 << 10;
const SLICE_BYTES = 128 << 10;
/** A destination that says nothing for so long after the end of the stream waits for that of the preempt channel. */
const SILENCE_MS = 1000;
/** Zero pages that go out at once: they are nothing on the wire, but the destination maps each of them. */
const ZERO_SLICE_PAGES = 1024;
const LONGEST_WAIT_MS = 100;
/** A destination that loads its devices gets something to read so often. */
const STILL_LOADING_MS = 250;
/** Runs in one slice: each names its block and costs a call that reads. */
const MOST_RUNS = 32;
/** Pages on the preempt channel whose neighbours are still to be sent; beyond that, the fill brings them. */
const MOST_NEIGHBOURS = 64;

/**
 * Serves the pages of a stopped guest to a destination that runs it already: those that are asked for at once, with their
 * neighbours, all others in between. It outlives connections: see `recover`.
 *
 * Without a preempt channel one loop writes all of it to the main channel, between two slices of at most `sliceBytes`
 * looking for requests; with one, what is asked for goes there, from a loop of its own, and its neighbours with
 * priority over the main one: a destination that reads the end of the stream waits for pages that it asked for, and for no
 * others, before it closes the preempt channel. Taking pages for sending is synchronous, and so both loops can share the
 * same {@link SentPages}.
 */
export class PageServer {
  readonly sent: SentPages;
  readonly #source: PageSource;
  readonly #options: PageServerOptions;
  readonly #clock: Clock;
  readonly #queue: PageRequestQueue;
  readonly #writer: PageWriter;
  readonly #fill: BackgroundFill;
  readonly #rate: FillRate;
  readonly #recording: RecordingWindow;
  readonly #headStart: HeadStart;
  readonly #counters: PostcopyCounters;
  readonly #sliceBytes: number;
  readonly #mainRecords: PageRecords;
  readonly #mainAlarm: Alarm;
  readonly #preemptAlarm: Alarm;
  /** Around pages that went over the preempt channel. */
  #neighbours: BlockRun[] = [];
  /** Whether all pages with content were sent, and the rest follows. */
  #sendsZeroPages = false;
  /** Whether the end of the stream was written to this connection. */
  #hasEnded = false;

  /** @throws FormatError `unsupported` for blocks that do not consist of whole host pages. */
  constructor(source: PageSource, options: PageServerOptions) {
    checkHostPages(source);
    this.#source = source;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#mainAlarm = new Alarm(this.#clock);
    this.#preemptAlarm = new Alarm(this.#clock);
    this.sent = new SentPages(source);
    this.#queue = new PageRequestQueue(source, this.sent);
    const pageSizes = source.blocks.map(({ hostPageSize }) => hostPageSize);
    this.#fill = new BackgroundFill(this.sent, pageSizes);
    this.#rate = new FillRate(this.#clock, options.fillBytesPerSecond ?? (() => 0));
    this.#counters = new PostcopyCounters(options.mostRecorded);
    this.#recording = new RecordingWindow(this.#clock, options.recording);
    this.#headStart = new HeadStart(this.#clock, options.headStartMs ?? 0);
    this.#writer = new PageWriter(source, options, this.#counters);
    this.#sliceBytes = options.sliceBytes ?? SLICE_BYTES;
    const mainBytes = Math.max(this.#sliceBytes, this.#clusterBytes);
    this.#mainRecords = new PageRecords(source, mainBytes, this.#counters.pages);
  }

  get statistics(): PageServerStatistics {
    return this.#counters.statistics();
  }

  /** Bytes of host pages with content that are still to be sent. */
  get remainingBytes(): number {
    return this.#sendsZeroPages ? 0 : this.sent.pendingBytes;
  }

  /** Everything written to the channels. */
  get sentBytes(): number {
    return this.#counters.sentBytes;
  }

  /** Target pages that went out. */
  get sentPages(): Readonly<FramedPages> {
    return this.#counters.pages;
  }

  /** The first requests, in order, by numbers of block and host page: what a working set is made of. */
  get recordedRequests(): readonly PagePlace[] {
    return this.#counters.recorded;
  }

  /** Takes a request of the destination in; for {@link PostcopyConnection}, bound to this server. */
  readonly request = (request: PageRequest, offset: number): void => {
    this.#counters.recordRequest(this.#queue.add(request, offset, this.#clock.now()));
    this.#recording.asked();
    this.#headStart.asked();
    if (this.#counters.isFull) this.#recording.close();
    this.#preemptAlarm.ring();
    this.#mainAlarm.ring();
  };

  /** What of a connection that broke does not hold for the next one; to be called before that one is made. */
  beginRecovery(): void {
    this.#queue.clear();
    this.#counters.recoveries += 1;
  }

  /** Sends these pages before all others that nobody asked for, in that order. */
  prefer(runs: readonly BlockRun[]): void {
    this.#fill.prefer(runs);
  }

  /**
   * Sends runs of pages as part of the RAM section, before the destination runs the guest: ordinary precopy, in the order of
   * their places, as a file is read quickest. Pages that were sent are passed over.
   */
  async sendBeforeRun(connection: PostcopyConnection, runs: readonly BlockRun[]): Promise<void> {
    this.prefer([...runs].sort((a, b) => a.block - b.block || a.start - b.start));
    for (let slice = this.#takeSlice(false); slice.length > 0; slice = this.#takeSlice(false)) {
      await this.#writer.write(connection, this.#mainRecords, connection.main, slice);
    }
  }

  /**
   * Serves pages until the destination has all of them and says so. Nobody else writes to the connection meanwhile.
   *
   * @param devicesLoaded Whether the destination has loaded the devices, as after a recovery; otherwise its PONG 3 says it.
   *   Until then only what is asked for, or preferred, is sent: nothing else makes the guest run sooner.
   * @throws The connection's failure: MachineError `connection-closed` for one that broke.
   */
  async serve(connection: PostcopyConnection, devicesLoaded: boolean): Promise<void> {
    connection.onEnd = () => {
      this.#mainAlarm.ring();
      this.#preemptAlarm.ring();
    };
    this.#hasEnded = false;
    this.#sendsZeroPages = false;
    this.#neighbours = [];
    const { preempt } = connection;
    const pumps = [this.#pumpMain(connection, devicesLoaded)];
    if (preempt !== undefined) pumps.push(this.#pumpPreempt(connection, preempt));
    // What ends one ends the other: nothing of this connection is left when the next one begins.
    for (const pump of pumps) pump.catch((error: unknown) => connection.fail(asError(error)));
    await Promise.allSettled(pumps);
    connection.throwFailure();
    await Promise.all(pumps);
  }

  async #pumpMain(connection: PostcopyConnection, devicesLoaded: boolean): Promise<void> {
    const loaded = (): boolean => devicesLoaded || connection.hasPong(PostcopyPing.DEVICES_LOADED);
    const ring = (): void => this.#mainAlarm.ring();
    if (!loaded()) connection.pong(PostcopyPing.DEVICES_LOADED).then(ring, ring);
    while (true) {
      connection.throwFailure();
      if (connection.isShut) throw tooEarly();
      const waitMs = await this.#sendOneThing(connection, loaded());
      if (waitMs === 0) await this.#clock.turn();
      else if (waitMs === undefined && loaded()) {
        if (this.#isAllSent(connection)) break;
      } else if (waitMs === undefined) {
        if (!(await this.#mainAlarm.wait(STILL_LOADING_MS))) await this.#stir(connection);
      }
      // The limit may change meanwhile.
      else await this.#mainAlarm.wait(Math.min(waitMs, LONGEST_WAIT_MS));
    }
    await this.#writer.end(connection);
    this.#hasEnded = true;
    this.#preemptAlarm.ring();
    this.#options.onAllSent?.();
    await connection.shut();
  }

  /**
   * Gives a destination that loads its devices something to read. When QEMU 11.1 cannot load them, the thread that listens sees
   * that only once it has read something more: until then it says nothing, and waits.
   */
  async #stir(connection: PostcopyConnection): Promise<void> {
    await this.#writer.send(
      connection,
      connection.main,
      encodedCommand(pingCommand(PostcopyPing.STILL_LOADING)),
    );
  }

  /** Goes on with zero pages where those have to be sent too. */
  #isAllSent({ preempt }: PostcopyConnection): boolean {
    const whenAsked = this.#options.zeroPagesWhenAsked ?? preempt !== undefined;
    if (!whenAsked && !this.#sendsZeroPages) {
      this.#sendsZeroPages = true;
      this.sent.pendAll();
    }
    return this.sent.pendingBytes === 0;
  }

  /**
   * A destination that was slow to read the end may ask for zero pages even then, and waits: so the channel is kept in use until
   * all is over. But QEMU 7.1 and 7.2 read it to its end before they go on, and then let go of who waits.
   */
  async #pumpPreempt(connection: PostcopyConnection, preempt: ByteSink): Promise<void> {
    const records = new PageRecords(this.#source, this.#clusterBytes, this.#counters.pages);
    let isSilent = false;
    while (!connection.isShut) {
      connection.throwFailure();
      if (this.#hasEnded && (connection.isEarlyPreempt === true || isSilent)) {
        const writer = new ByteWriter();
        encodeEndOfSection(writer);
        await this.#writer.send(connection, preempt, writer.finish());
        return;
      }
      const wanted = this.#queue.take();
      if (wanted === undefined) {
        const mayBeOver = this.#hasEnded && connection.isEarlyPreempt === undefined;
        const rang = await this.#preemptAlarm.wait(mayBeOver ? SILENCE_MS : undefined);
        isSilent = mayBeOver && !rang;
        continue;
      }
      const [page, ...neighbours] = this.#clusterAround(wanted);
      if (page === undefined) continue;
      const alone = { ...page, end: page.start + 1 };
      this.#neighbours.push({ ...page, start: alone.end }, ...neighbours);
      this.#neighbours.splice(0, this.#neighbours.length - MOST_NEIGHBOURS);
      await this.#answer(connection, records, preempt, wanted, [alone]);
      this.#mainAlarm.ring();
      // Requests are read from the event loop, which a socket that takes everything would never give a turn.
      await this.#clock.turn();
    }
  }

  /** @returns How long to wait for something else to do: 0 for not at all, undefined for as long as nothing happens. */
  async #sendOneThing(connection: PostcopyConnection, devicesLoaded: boolean): Promise<number | undefined> {
    const { main, preempt } = connection;
    const wanted = preempt === undefined ? this.#queue.take() : undefined;
    if (wanted !== undefined) {
      await this.#answer(connection, this.#mainRecords, main, wanted, this.#clusterAround(wanted));
      return 0;
    }
    const neighbours = this.#takeNeighbours();
    if (neighbours.length > 0) {
      await this.#writer.write(connection, this.#mainRecords, main, neighbours);
      return 0;
    }
    if (devicesLoaded) {
      this.#recording.begin();
      this.#headStart.begin();
    }
    const waitMs = this.#fillWaitMs(devicesLoaded);
    if (waitMs > 0) return waitMs;
    const runs = this.#takeSlice(devicesLoaded);
    if (runs.length === 0) return undefined;
    await this.#writer.write(connection, this.#mainRecords, main, runs);
    return 0;
  }

  /** Runs to send together: one alone would make crumbs of memory with holes. */
  #takeSlice(devicesLoaded: boolean): BlockRun[] {
    const { targetPageSize } = this.#source;
    const sliceBytes = this.#sendsZeroPages ? ZERO_SLICE_PAGES * targetPageSize : this.#sliceBytes;
    const runs: BlockRun[] = [];
    let bytes = 0;
    while (bytes < sliceBytes && runs.length < MOST_RUNS) {
      const leftBytes = sliceBytes - bytes;
      const run = this.#fill.nextFirst(leftBytes) ?? (devicesLoaded ? this.#fill.next(leftBytes) : undefined);
      if (run === undefined) break;
      // A huge page is a slice of its own.
      if (bytes > 0 && hostPageSizeIn(this.#source, run.block) > leftBytes) break;
      bytes += this.#take(run);
      runs.push(run);
    }
    if (this.#sendsZeroPages) return runs;
    this.#rate.sent(bytes);
    this.#counters.backgroundBytes += bytes;
    return runs;
  }

  async #answer(
    connection: PostcopyConnection,
    records: PageRecords,
    channel: ByteSink,
    wanted: WantedPage,
    runs: readonly BlockRun[],
  ): Promise<void> {
    for (const run of runs) this.#takeAskedFor(run);
    this.#counters.clusterPages -= 1;
    this.#counters.askedForPages += 1;
    await this.#writer.write(connection, records, channel, runs);
    this.#counters.serviceTimes.add(this.#clock.now() - wanted.askedAtMs);
  }

  #takeNeighbours(): BlockRun[] {
    const runs: BlockRun[] = [];
    for (let bytes = 0; bytes < this.#sliceBytes;) {
      const next = this.#neighbours.shift();
      if (next === undefined) break;
      // Two of them may overlap: each is looked at when those before it were taken.
      for (const run of this.sent.unsentIn(next)) {
        bytes += this.#takeAskedFor(run);
        runs.push(run);
      }
    }
    return runs;
  }

  #takeAskedFor(run: BlockRun): number {
    const bytes = this.#take(run);
    this.#counters.askedForBytes += bytes;
    this.#counters.clusterPages += run.end - run.start;
    return bytes;
  }

  /** A page that is asked for, and the unsent ones around it: first those behind it, then those in front. */
  #clusterAround({ block, page }: WantedPage): BlockRun[] {
    const most = pagesIn(this.#clusterBytes, hostPageSizeIn(this.#source, block));
    const first = page - (page % most);
    const end = Math.min(first + most, this.sent.hostPages(block));
    this.#fill.moveTo({ block, page: end === this.sent.hostPages(block) ? page : end });
    return [
      ...this.sent.unsentIn({ block, start: page, end }),
      ...this.sent.unsentIn({ block, start: first, end: page }),
    ];
  }

  /** Takes pages for sending. Returns their bytes. */
  #take(run: BlockRun): number {
    this.sent.markSent(run);
    return (run.end - run.start) * hostPageSizeIn(this.#source, run.block);
  }

  get #clusterBytes(): number {
    return this.#recording.isOpen ? 0 : (this.#options.clusterBytes ?? CLUSTER_BYTES);
  }

  /** Milliseconds until pages may go out that nobody asked for; the guest is not waited for when it has asked for all there is. */
  #fillWaitMs(devicesLoaded: boolean): number {
    const isEmpty = this.sent.pendingBytes === 0 || this.#sendsZeroPages;
    const guestMs = this.#recording.isOpen ? LONGEST_WAIT_MS : this.#headStart.leftMs;
    return Math.max(isEmpty || !devicesLoaded ? 0 : guestMs, this.#rate.waitMs());
  }
}
