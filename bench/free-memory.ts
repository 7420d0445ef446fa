import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import type { HeldMemory } from "./memory-holder.js";

const PROGRAM = fileURLToPath(new URL("memory-holder.ts", import.meta.url));

/** Whether memory is held before each row, or left as it is. */
export type FreeMemory = "held" | "any";

let state: FreeMemory = "held";
let holder: ChildProcess | undefined;

/** Says which of the two it is from now on; `held` when nothing was said. */
export function useFreeMemory(wanted: FreeMemory): void {
  state = wanted;
}

/**
 * Makes sure that so much memory is at hand for who takes it next.
 *
 * In a virtual machine whose host takes free memory back (free page reporting, a balloon), the first use of such memory
 * costs several times what is measured here: 7 µs for a page of 4 KiB were seen, against 1 for one that was in use a moment
 * before. Which row pays would depend on what ran a second before. So a process of its own holds memory that it has
 * written to, which no host takes, and gives it up as others take theirs: what is free is never more than before by more
 * than a little.
 *
 * @returns How many bytes are held: less where the machine has less, none without the optional package koffi.
 */
export async function holdFreeMemory(bytes: number): Promise<number> {
  if (state === "any") return 0;
  holder ??= fork(PROGRAM);
  if (holder.exitCode !== null) return 0;
  const { channel } = holder;
  // It ends with this process, and does not keep it but while it is waited for.
  holder.unref();
  channel?.ref();
  const answer = Promise.race([once(holder, "message"), once(holder, "exit").then(() => [{ bytes: 0 }])]);
  holder.send({ bytes } satisfies HeldMemory);
  const [held] = (await answer) as [HeldMemory];
  channel?.unref();
  return held.bytes;
}
