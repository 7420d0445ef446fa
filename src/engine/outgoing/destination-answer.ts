import { setTimeout as sleep } from "node:timers/promises";

import type { ByteSource } from "../../channels/index.js";
import { MachineError } from "../../errors/index.js";
import { awaitShut, closedEarly, OWN_ERROR } from "./return-path.js";

/** A destination that closes says why at the same time, if it does. */
const LAST_WORD_MS = 1000;
const CHANNELS_FIT = `${OWN_ERROR}; its multifd-channels, multifd-compression and UUID must be those of this side`;

/** What a destination says on the return path, where there is one, beside what is sent to it. */
export class DestinationAnswer {
  /** Settles with the destination's word; without a return path, it has none, and all is well. */
  readonly shut: Promise<void>;
  readonly #hasReturnPath: boolean;

  /** @param multifd Whether there are more connections, which must fit too. */
  constructor(returnPath: ByteSource | undefined, multifd: boolean) {
    this.#hasReturnPath = returnPath !== undefined;
    const hint = multifd ? CHANNELS_FIT : OWN_ERROR;
    this.shut =
      returnPath === undefined
        ? Promise.resolve()
        : awaitShut(returnPath, hint).catch((error: unknown) => {
            throw isClosed(error) ? closedEarly(hint, error) : error;
          });
    // It may come at any time, and be asked for much later.
    this.shut.catch(() => undefined);
  }

  /** The outcome of sending; a refusal ends it, even one whose connections stay open. */
  orRefusal<T>(sending: Promise<T>): Promise<T> {
    sending.catch(() => undefined);
    return new Promise((resolve, reject) => {
      sending.then(resolve, reject);
      this.shut.catch(reject);
    });
  }

  /** Why sending failed: where a channel was closed, the destination's word says more than that. */
  async reasonFor(error: unknown): Promise<unknown> {
    if (!this.#hasReturnPath || !isClosed(error)) return error;
    const silence = new AbortController();
    const refusal = this.shut.then(
      () => error,
      (reason: unknown) => reason,
    );
    const nothing = sleep(LAST_WORD_MS, error, { signal: silence.signal }).catch(() => error);
    const reason = await Promise.race([refusal, nothing]);
    silence.abort();
    return reason;
  }
}

function isClosed(error: unknown): boolean {
  return error instanceof MachineError && error.code === "connection-closed";
}
