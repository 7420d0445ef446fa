/**
 * The values of the PINGs of a postcopy migration. QEMU's source numbers them so, but looks at none but the last; what a PONG
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
  /** Behind that, again and again while the devices are loaded: only so that there is something to read. */
  STILL_LOADING: 5,
  /**
   * `QEMU_VM_PING_PACKAGED_LOADED`, inside the package, of QEMU 10.2 and newer: until it is answered the source lets its guest
   * go on when the connection breaks. A source that does not send it has given its guest away with the package.
   */
  PACKAGE_LOADED: 0x42,
} as const;
