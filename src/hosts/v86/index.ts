/**
 * v86, an x86 emulator in JavaScript and WebAssembly, as a machine that ramport saves and restores. Needs the npm package
 * `v86` beside ramport.
 *
 * @module
 */
export { SERIAL_PORTS, V86Host, type V86AttachOptions, type V86HostOptions } from "./host.js";
export type { SharedMemoryOptions } from "./shared-memory.js";
export { V86_STATE_VERSION } from "./state-tree.js";
