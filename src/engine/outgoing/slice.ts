/**
 * Pages that a target takes in between two calls of `OutgoingTarget.drain`, in bytes: larger writes got no faster,
 * and this is how much memory a target may need.
 */
export const SLICE_BYTES = 1 << 20;
