/**
 * Hands out the events of a monitor: to listeners, to waits, to iterations.
 *
 * @module
 */
import { asError } from "../errors/as-error.js";
import { MachineError, printable } from "../errors/index.js";
import { EventQueue, type EventsOptions, type Subscriber } from "./event-queue.js";
import type { QmpEvent } from "./event-types.js";
import { waitWithin, type WaitLimits } from "./waiting.js";

/** Called for each event, synchronously, in the order of arrival. */
export type EventListener<N extends string> = (event: QmpEvent<N>) => void;

// A real monitor holds its events back until the capabilities are negotiated.
const MAX_HELD = 1024;

type AnyListener = (event: QmpEvent) => void;

/** Distributes events and the end of the connection. */
export class EventHub {
  readonly #listeners = new Map<string, Set<AnyListener>>();
  readonly #subscribers = new Set<Subscriber>();
  #held: QmpEvent[] | undefined = [];
  #ended: { readonly reason: MachineError | undefined } | undefined;

  /**
   * Delivers what arrived before anyone could listen, and from then on everything at once. Until this is called,
   * events wait: QEMU may send one in the same packet as the answer that opens the connection.
   */
  release(): void {
    const held = this.#held;
    this.#held = undefined;
    for (const event of held ?? []) this.emit(event);
  }

  /** Delivers an event. */
  emit(event: QmpEvent): void {
    if (this.#held !== undefined) {
      if (this.#held.length === MAX_HELD) {
        throw new MachineError("qmp", `The monitor sent more than ${MAX_HELD} events before it was ready`);
      }
      this.#held.push(event);
      return;
    }
    for (const subscriber of [...this.#subscribers]) subscriber.event(event);
    for (const listener of [...(this.#listeners.get(event.name) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        // A listener's bug must neither stop the reading of the monitor nor stay hidden.
        process.nextTick(() => {
          throw error;
        });
      }
    }
  }

  /** Ends all waits and iterations. */
  end(reason: MachineError | undefined): void {
    if (this.#ended !== undefined) return;
    this.release();
    this.#ended = { reason };
    for (const subscriber of [...this.#subscribers]) subscriber.end(reason);
    this.#subscribers.clear();
    this.#listeners.clear();
  }

  /** Calls `listener` for each event of this name; returns what stops that. */
  on<N extends string>(name: N, listener: EventListener<N>): () => void {
    if (this.#ended === undefined) {
      let set = this.#listeners.get(name);
      if (set === undefined) this.#listeners.set(name, (set = new Set()));
      set.add(listener as AnyListener);
    }
    return () => this.off(name, listener);
  }

  /** Stops what {@link EventHub.on} began. */
  off<N extends string>(name: N, listener: EventListener<N>): void {
    this.#listeners.get(name)?.delete(listener as AnyListener);
  }

  /** Waits for the next event of this name that fits; see QmpClient.waitForEvent. */
  wait<N extends string>(
    name: N,
    predicate: (event: QmpEvent<N>) => boolean,
    limits: WaitLimits,
  ): Promise<QmpEvent<N>> {
    return waitWithin<QmpEvent<N>>(
      limits,
      (ms) => new MachineError("timeout", `The event ${printable(name)} did not come within ${ms} ms`),
      ({ resolve, reject }) => {
        const end = (reason: MachineError | undefined): void => {
          const broke = reason !== undefined && reason.code !== "connection-closed";
          const message = `The monitor closed before the event ${printable(name)} came`;
          reject(broke ? reason : new MachineError("connection-closed", message, {}, reason));
        };
        const subscriber: Subscriber = {
          event: (event) => {
            if (event.name !== name) return;
            try {
              if (predicate(event as QmpEvent<N>)) resolve(event as QmpEvent<N>);
            } catch (error) {
              reject(asError(error));
            }
          },
          end,
        };
        if (this.#ended === undefined) this.#subscribers.add(subscriber);
        else end(this.#ended.reason);
        return () => this.#subscribers.delete(subscriber);
      },
    );
  }

  /** Iterates over all events from now on; see QmpClient.events. */
  iterate(options: EventsOptions): AsyncIterableIterator<QmpEvent> {
    const queue = new EventQueue(options, () => this.#subscribers.delete(queue));
    if (this.#ended === undefined) this.#subscribers.add(queue);
    else queue.end(this.#ended.reason);
    queue.start();
    return queue;
  }
}
