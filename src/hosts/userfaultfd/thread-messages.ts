import type { DetachedConnection } from "../../channels/index.js";
import type { PostcopyStart, PostcopyStatistics, PostcopyStatus } from "../../engine/index.js";
import {
  CancelledError,
  FormatError,
  type FormatErrorCode,
  MachineError,
  type MachineErrorCode,
  RamportError,
  type RamportErrorData,
  UsageError,
} from "../../errors/index.js";
import type { MemoryRegion } from "./registered-memory.js";

/** What the thread gets when it starts. */
export interface ThreadData {
  readonly uffd: number;
  readonly servesKernel: boolean;
  /** An eventfd: written to when a message was sent, for the thread does not wait for messages. */
  readonly wake: number;
  /** One 32-bit word, {@link Phase}: what both threads decide by, without a message. */
  readonly phase: SharedArrayBuffer;
}

/** What has become of the guest, in {@link ThreadData.phase}. */
export const Phase = {
  /** Its devices are loaded; a failure ends the load. */
  LOADING: 0,
  /** It runs here and nowhere else. */
  RUNNING: 1,
  /** It is not to run here any more, or never was. */
  OVER: 2,
} as const;

/** The connections of a source. */
export interface ThreadConnection {
  readonly main: DetachedConnection;
  /** Whether a second one comes, by the call `preempt`. */
  readonly preempt: boolean;
}

/** What the thread can be asked, and what it answers. */
export interface ThreadCalls {
  listen(asked: {
    readonly start: PostcopyStart;
    readonly regions: readonly (MemoryRegion | undefined)[];
    readonly connection: ThreadConnection;
  }): void;
  preempt(connection: DetachedConnection): void;
  pong(value: number): void;
  pause(): void;
  recover(connection: ThreadConnection): void;
  abort(error: ErrorData): void;
  statistics(): PostcopyStatistics;
  /** Nobody will touch the memory as a guest any more: what is missing becomes zero. */
  release(): void;
}

/** A call on its way to the thread. */
export interface ThreadRequest {
  readonly id: number;
  readonly method: keyof ThreadCalls;
  readonly argument: unknown;
}

/** What the thread says. */
export type ThreadMessage =
  | { readonly kind: "answer"; readonly id: number; readonly value?: unknown; readonly error?: ErrorData }
  | { readonly kind: "status"; readonly status: PostcopyStatus; readonly error?: ErrorData }
  | { readonly kind: "completed"; readonly statistics: PostcopyStatistics }
  /** It cannot end well. The memory is as any other if the guest never ran, and waits for `release` if it did. */
  | { readonly kind: "failed"; readonly error: ErrorData };

/** An error as plain data. */
export interface ErrorData {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly data?: RamportErrorData;
}

/** Makes plain data of an error; its cause stays behind. */
export function errorToData(error: unknown): ErrorData {
  if (error instanceof RamportError) {
    const { name, message, code, data } = error;
    return { name, message, code, data };
  }
  return error instanceof Error
    ? { name: error.name, message: error.message }
    : { name: "Error", message: String(error) };
}

/** The error again, of its own class. */
export function errorFromData({ name, message, code, data }: ErrorData): Error {
  const error = errorOfName(name, message, code);
  // The message has what the data says already.
  if (data !== undefined) Object.defineProperty(error, "data", { value: data, enumerable: true });
  return error;
}

function errorOfName(name: string, message: string, code = ""): Error {
  switch (name) {
    case "FormatError":
      return new FormatError(code as FormatErrorCode, message);
    case "MachineError":
      return new MachineError(code as MachineErrorCode, message);
    case "UsageError":
      return new UsageError(message);
    case "CancelledError":
      return new CancelledError(message);
    default:
      return new Error(message);
  }
}
