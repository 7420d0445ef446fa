import type { ByteSink, ByteSource } from "./byte-stream.js";

/** A connection without the channel that had it: what another thread takes over. */
export interface DetachedConnection {
  /** A connected stream socket that does not block; whoever gets it closes it. */
  readonly fd: number;
  /** What had been read of it; it comes before what the descriptor gives. */
  readonly unread: Uint8Array;
  /** What the other side is called in errors. */
  readonly peer: string;
}

/** A channel that can give its connection away. */
export interface DetachableChannel {
  readonly canDetach: boolean;
  detach(): Promise<DetachedConnection | undefined>;
}

/** Whether {@link detachConnection} can take the connection out of a channel. */
export function canDetachConnection(channel: object): channel is DetachableChannel {
  return "canDetach" in channel && channel.canDetach === true;
}

/**
 * Takes the connection out of a channel, which is closed then. Nobody may be reading from it.
 *
 * @returns undefined, with the channel untouched, where that is not possible: no socket, or one with TLS, whose keys are
 *   this thread's.
 * @throws MachineError `not-capable` where descriptors cannot be duplicated; `io`.
 */
export async function detachConnection(
  channel: ByteSource | ByteSink,
): Promise<DetachedConnection | undefined> {
  return canDetachConnection(channel) ? channel.detach() : undefined;
}
