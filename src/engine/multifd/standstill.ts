import type { MultifdSendOptions } from "./send-pages.js";

/** No destination that means the same as this side takes so long over a buffer. */
const LONG_MS = 15_000;
const LOOK_MS = 1000;

type Watched = Pick<MultifdSendOptions, "channels" | "syncMode" | "compression">;

/**
 * Says so when nothing moves. Where the two sides do not mean the same number of channels, or sync them differently, QEMU
 * waits without a word and for ever; but slow links and stopped destinations stand still too, so that it is no failure.
 *
 * @param movedBytes How much was sent so far.
 * @param multifd Nothing is watched without it.
 */
export function watchStandstill(
  movedBytes: () => number,
  multifd: Watched | undefined,
  onMessage: ((message: string) => void) | undefined,
): { stop(): void } {
  if (multifd === undefined || onMessage === undefined) return { stop: () => undefined };
  let last = movedBytes();
  let sinceMs = performance.now();
  const timer = setInterval(() => {
    const now = movedBytes();
    if (now !== last) {
      last = now;
      sinceMs = performance.now();
    } else if (performance.now() - sinceMs >= LONG_MS) {
      clearInterval(timer);
      onMessage(message(multifd));
    }
  }, LOOK_MS);
  return { stop: () => clearInterval(timer) };
}

function message({ channels, syncMode, compression }: Watched): string {
  return (
    `The destination has taken nothing for ${LONG_MS / 1000} s. It never will if its multifd-channels is not ` +
    `${channels.length}, its multifd-compression is not ${compression ?? "none"}, or its channels do not sync once a ` +
    `${syncMode} (--multifd-sync)`
  );
}
