/**
 * The QMP monitor of a machine that lives in this process: QEMU's protocol, commands, errors and events.
 *
 * @module
 */
export type { MachineEvent, MonitoredMachine, MonitoredMigration } from "./machine.js";
export { MAX_MESSAGE_BYTES } from "./message-splitter.js";
export { Monitor } from "./monitor.js";
export { type MonitorVersion, monitorVersion } from "./version.js";
