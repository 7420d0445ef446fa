/**
 * The machines of the demo: processes with a monitor, of whatever kind. The story is the same with all of them.
 *
 * @module
 */

/** A machine in a process of its own. */
export interface DemoMachine {
  /** Socket of its monitor. */
  readonly qmpPath: string;
  /** All that its guest has said on the serial port. */
  serialText(): string;
  /** Ends the process. */
  kill(): Promise<void>;
}

/** Starts machines. */
export interface DemoMachines {
  /** "v86", "QEMU 10.0.2". */
  readonly kind: string;
  readonly memoryBytes: number;
  /** Rewritten and checked by each pass of the guest. */
  readonly rewrittenBytes: number;
  /** Bytes a second at which the memory is saved: slower than the guest rewrites it, as disks and networks are. */
  readonly saveBandwidth: number;
  /** @param incoming Whether it waits for a guest, instead of starting one. */
  start(incoming: boolean): Promise<DemoMachine>;
  /** Ends all that are left. */
  killAll(): Promise<void>;
}
