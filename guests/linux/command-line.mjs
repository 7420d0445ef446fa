/**
 * The kernel's command line for the Linux guest.
 *
 * @module
 */

/**
 * What the guest's first program shall do; init.sh has the defaults.
 *
 * @typedef {object} Workload
 * @property {number} [keptMiB] random bytes, written once and checked in turn; at least 1
 * @property {number} [rewrittenMiB] written anew in turn; at least 1
 * @property {number} [pauseSeconds] sleep after each pass; may be a fraction
 */

/** Debian's kernel boots in v86 with `console=ttyS0` alone too; the rest is for speed. */
const KERNEL = [
  "console=ttyS0",
  "quiet",
  // It waits half a second for plug-and-play ISA cards to answer.
  "noisapnp",
  // Its self-tests of ciphers take two seconds.
  "cryptomgr.notests",
];

/**
 * @param {Workload} [workload]
 * @returns {string}
 */
export function linuxCommandLine({ keptMiB, rewrittenMiB, pauseSeconds } = {}) {
  const options = Object.entries({ kept: keptMiB, rewritten: rewrittenMiB, pause: pauseSeconds })
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `ramport.${name}=${String(value)}`);
  return [...KERNEL, ...options].join(" ");
}
