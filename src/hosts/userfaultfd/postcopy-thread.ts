import { once } from "node:events";
import { Worker } from "node:worker_threads";

import { errorToData, errorFromData, Phase } from "./thread-messages.js";
import type { ThreadCalls, ThreadData, ThreadMessage, ThreadRequest } from "./thread-messages.js";
import { MachineError } from "../../errors/index.js";
import { uffdCalls } from "./system.js";
import { Userfaultfd } from "./userfaultfd.js";

const EFD_CLOEXEC_NONBLOCK = 0o2004000;
const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);

/** What is to be heard of the thread, besides answers. */
export type ThreadListener = (message: Exclude<ThreadMessage, { readonly kind: "answer" }>) => void;

interface WaitingCall {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** The thread that serves missing pages, as the guest's thread sees it. */
export class PostcopyThread {
  readonly #worker: Worker;
  readonly #uffd: Userfaultfd;
  readonly #wake: number;
  readonly #phase: Int32Array;
  readonly #calls = new Map<number, WaitingCall>();
  #nextId = 0;
  #failure: Error | undefined;
  #listener: ThreadListener = () => undefined;

  /**
   * Starts it: it is ready some ten milliseconds later, and what it is asked waits until then.
   *
   * @throws MachineError `not-capable` where there is no userfaultfd.
   */
  constructor() {
    const calls = uffdCalls();
    this.#uffd = Userfaultfd.open();
    this.#wake = calls.eventfd(0, EFD_CLOEXEC_NONBLOCK);
    const phase = new SharedArrayBuffer(4);
    this.#phase = new Int32Array(phase);
    const { fd: uffd, servesKernel } = this.#uffd;
    const workerData: ThreadData = { uffd, servesKernel, wake: this.#wake, phase };
    this.#worker = startWorker(workerData);
    this.#worker.on("message", (message: ThreadMessage) => this.#take(message));
    this.#worker.on("error", (error) => this.#fail(error));
    this.#worker.on("exit", () =>
      this.#fail(new MachineError("io", "The thread that serves pages has ended")),
    );
    // Until there is something to serve, it keeps no process alive.
    this.#worker.unref();
  }

  /** Whether it can be asked. */
  get isAlive(): boolean {
    return this.#failure === undefined;
  }

  listenTo(listener: ThreadListener): void {
    this.#listener = listener;
    this.#worker.ref();
  }

  /** @throws What the thread answers, and MachineError `io` when it has ended. */
  call<M extends keyof ThreadCalls>(
    method: M,
    ...[argument]: Parameters<ThreadCalls[M]>
  ): Promise<ReturnType<ThreadCalls[M]>> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      const id = this.#nextId++;
      this.#calls.set(id, { resolve, reject });
      const request: ThreadRequest = { id, method, argument };
      this.#worker.postMessage(request);
      uffdCalls().write(this.#wake, ONE, ONE.length);
    });
  }

  /**
   * Decides that the guest runs here.
   *
   * @returns false when it is over already: it must not.
   */
  beginRunning(): boolean {
    return Atomics.compareExchange(this.#phase, 0, Phase.LOADING, Phase.RUNNING) !== Phase.OVER;
  }

  /** Ends it; memory that is still registered is as any other then. */
  async close(): Promise<void> {
    if (this.isAlive) {
      const ended = once(this.#worker, "exit");
      void this.#worker.terminate();
      uffdCalls().write(this.#wake, ONE, ONE.length);
      await ended;
    }
    this.#uffd.close();
    uffdCalls().close(this.#wake);
  }

  #take(message: ThreadMessage): void {
    if (message.kind !== "answer") {
      this.#listener(message);
      return;
    }
    const call = this.#calls.get(message.id);
    this.#calls.delete(message.id);
    if (message.error === undefined) call?.resolve(message.value);
    else call?.reject(errorFromData(message.error));
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    for (const call of this.#calls.values()) call.reject(error);
    this.#calls.clear();
    this.#listener({ kind: "failed", error: errorToData(error) });
  }
}

/** The thread's own module stands beside this one, whether the library was bundled or not. */
function startWorker(workerData: ThreadData): Worker {
  const options = { workerData, name: "ramport postcopy" };
  if (!import.meta.url.endsWith(".ts")) {
    return new Worker(new URL("./postcopy-worker.js", import.meta.url), options);
  }
  // The tests run the sources, for which a thread has to be prepared.
  const url = new URL("./postcopy-worker.ts", import.meta.url).href;
  const script = `import("tsx/esm/api").then(({ register }) => { register(); return import("${url}"); })`;
  return new Worker(script, { ...options, eval: true });
}
