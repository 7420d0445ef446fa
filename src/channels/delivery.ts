import type { ByteSource } from "./byte-stream.js";

/** Says where a channel's bytes are to go, and is told when they have come. */
export interface ByteReceiver {
  /** Where the next bytes go: room for one or more. Undefined as long as there is none: see {@link Delivery.resume}. */
  room(): Uint8Array | undefined;
  /** So many bytes were put where {@link room} said last, from its begin. */
  received(count: number): void;
}

/** A channel that hands its bytes to a receiver. */
export interface Delivery {
  /**
   * Resolves when the channel has ended and everything was handed over.
   *
   * @throws MachineError `io` or `connection-closed`.
   */
  readonly ended: Promise<void>;
  /** To be called when there is room again. */
  resume(): void;
}

/** A source that hands its bytes over by itself, faster than by reads. */
interface DeliveringSource extends ByteSource {
  deliver(receiver: ByteReceiver): Delivery;
}

/** Hands everything that comes over a channel to a receiver; nobody else may read from it. */
export function deliver(source: ByteSource, receiver: ByteReceiver): Delivery {
  return "deliver" in source
    ? (source as DeliveringSource).deliver(receiver)
    : deliverByReading(source, receiver);
}

/** The same for a source that has no faster way than reads. */
export function deliverByReading(source: ByteSource, receiver: ByteReceiver): Delivery {
  let resumed = (): void => undefined;
  const run = async (): Promise<void> => {
    for (;;) {
      const room = receiver.room();
      if (room === undefined) {
        await new Promise<void>((resolve) => (resumed = resolve));
        continue;
      }
      const count = await source.read(room);
      if (count === 0) return;
      receiver.received(count);
    }
  };
  return { ended: run(), resume: () => resumed() };
}
