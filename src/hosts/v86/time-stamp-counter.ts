/** What of v86's `CPU` belongs to its time stamp counter. */
export interface TimeStampCounter {
  /** Low and high half of what {@link store_current_tsc} read. */
  readonly current_tsc: Uint32Array;
  store_current_tsc(): void;
  set_tsc(low: number, high: number): void;
}

/**
 * Makes the next `set_tsc` of v86 0.5 set what it is told to.
 *
 * The counter is the host's clock less an offset. `set_tsc` takes the new offset from a reading that the old offset is
 * subtracted from already, so it sets the counter right only when the old one is 0. A fresh machine's is almost that,
 * because it was set twice; that of a machine that was loaded or reset before is not: its guest's clock would leap by
 * minutes, or stand still until the counter has come to where it was. Setting the counter to what it reads leaves an
 * offset of 0.
 */
export function clearTscOffset(cpu: TimeStampCounter): void {
  cpu.store_current_tsc();
  const [low, high] = cpu.current_tsc;
  cpu.set_tsc(low ?? 0, high ?? 0);
}
