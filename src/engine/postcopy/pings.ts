/**
 * The values of the PINGs of a postcopy migration. QEMU's source numbers the first four so, but looks at none; what a PONG
 * says is where the PING stood.
 */
export const PostcopyPing = {
  /** Behind OPEN_RETURN_PATH: the main connection is the destination's main one. */
  RETURN_PATH: 1,
  /** In front of the package. */
  BEFORE_PACKAGE: 2,
  /** Inside the package, behind the devices: they are loaded, and the guest runs next. */
  DEVICES_LOADED: 3,
  /** Behind the package: the thread that takes pages in reads the stream. */
  LISTENING: 4,
  /** ramport's own, in front of the end of a stream with a preempt channel. */
  BEFORE_END: 5,
} as const;
