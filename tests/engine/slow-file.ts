import { MemoryFile } from "./fake-host.js";

/** A transfer that was begun and has not ended. */
export interface Transfer {
  readonly kind: "read" | "write";
  readonly position: number;
  readonly length: number;
  /** Moves the bytes as they are now, and ends it. */
  end(): void;
  fail(error: Error): void;
}

/** A file in memory whose overlapped transfers end when the test says so; the others at once. */
export class SlowFile extends MemoryFile {
  /** Those that run, in the order in which they began. */
  readonly running: Transfer[] = [];
  /** How many ran at the same time at most. */
  most = 0;
  #waiting: (() => void) | undefined;

  startRead(target: Uint8Array, position: number): Promise<number> {
    return this.#begin("read", position, target.length, () => this.readAt(target, position));
  }

  async startWrite(bytes: Uint8Array, position: number): Promise<void> {
    await this.#begin("write", position, bytes.length, () => this.writeAt(bytes, 0, bytes.length, position));
  }

  /** Waits until so many transfers run. */
  async waitFor(count: number): Promise<void> {
    while (this.running.length < count) {
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
      });
    }
  }

  #begin<T>(kind: Transfer["kind"], position: number, length: number, move: () => T): Promise<T> {
    const overlap = this.running.find((other) => {
      const apart = other.position + other.length <= position || position + length <= other.position;
      return !apart && (kind === "write" || other.kind === "write");
    });
    if (overlap !== undefined) throw new Error(`two transfers at ${position} run together`);
    return new Promise((resolve, reject) => {
      const leave = (): void => void this.running.splice(this.running.indexOf(transfer), 1);
      const transfer: Transfer = {
        kind,
        position,
        length,
        end: () => {
          leave();
          resolve(move());
        },
        fail: (error) => {
          leave();
          reject(error);
        },
      };
      this.running.push(transfer);
      this.most = Math.max(this.most, this.running.length);
      this.#waiting?.();
    });
  }
}
