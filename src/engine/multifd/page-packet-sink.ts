import type { RamRecordSink } from "../../wire/index.js";

/** A sink that takes the pages of a whole packet at once, and may let others work meanwhile. */
export interface PagePacketSink extends RamRecordSink {
  /**
   * Takes pages that stand one behind the other in `bytes`.
   *
   * @param places Where in the block they go, in bytes; not used after the call returns.
   * @param count How many pages.
   * @returns When they are in their places, or undefined when they are already: the bytes must stay until then.
   */
  pagePacket(
    block: number,
    places: Float64Array,
    count: number,
    bytes: Uint8Array,
  ): Promise<void> | undefined;
  /** Puts everything in its place that came as single pages: what comes from other channels may lie over it. */
  settlePages(): void;
}

/** The same for any sink: page by page. */
export function asPagePacketSink(sink: RamRecordSink, pageSize: number): PagePacketSink {
  if ("pagePacket" in sink) return sink as PagePacketSink;
  return {
    page: (...page) => sink.page(...page),
    zeroPage: (...page) => sink.zeroPage(...page),
    xbzrlePage: (...page) => sink.xbzrlePage(...page),
    compressedPage: (...page) => sink.compressedPage(...page),
    pagePacket: (block, places, count, bytes) => {
      for (let index = 0; index < count; index++)
        sink.page(block, places[index] ?? 0, bytes, index * pageSize);
      return undefined;
    },
    settlePages: () => undefined,
  };
}
