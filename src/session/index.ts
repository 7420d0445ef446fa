/**
 * Whole tasks: save, restore, receive, send. They put an engine, channels and a QMP connection together.
 *
 * @module
 */
export { receiveSnapshot, type ReceiveSnapshotOptions, type WrittenSnapshot } from "./receive.js";
export { type RestoreOptions, type RestoreResult, restoreVm } from "./restore.js";
export type { RestoreMethodName } from "./restore-method.js";
export { type SaveOptions, type SaveResult, saveVm } from "./save.js";
export type { SaveMethodName, ZeroPageDetectionName } from "./save-method.js";
export { sendSnapshot, type SendSnapshotOptions } from "./send.js";
