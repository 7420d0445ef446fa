import type { Duplex } from "node:stream";

import type { MonitoredMachine } from "./machine.js";
import { MonitorSession } from "./session.js";

/**
 * The QMP monitor of a machine: QEMU's monitor protocol for any number of connections. Where they come from, and that
 * a socket serves one client at a time, is the business of who accepts them.
 */
export class Monitor {
  readonly #machine: MonitoredMachine;
  readonly #sessions = new Set<MonitorSession>();

  constructor(machine: MonitoredMachine) {
    this.#machine = machine;
  }

  /** Serves one client, whose stream is owned from here on; resolves when it has gone. Never rejects. */
  async serve(stream: Duplex): Promise<void> {
    const session = new MonitorSession(this.#machine, stream);
    this.#sessions.add(session);
    try {
      await session.run();
    } finally {
      this.#sessions.delete(session);
    }
  }

  /** Ends all connections, each after what was sent on it. */
  async close(): Promise<void> {
    await Promise.all([...this.#sessions].map((session) => session.end()));
  }
}
