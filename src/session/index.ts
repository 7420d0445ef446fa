/**
 * Whole tasks: save, restore, receive, send. They put an engine, channels and a QMP connection together.
 *
 * @module
 */
export {
  type CloneCommandOptions,
  type CloneOptions,
  cloneVms,
  planClone,
  type PlanCloneOptions,
  type PlannedClone,
} from "./clone/clone.js";
export type { MappedBlock } from "./clone/memory-plan.js";
export { restoreClone, type RestoreCloneOptions, type RestoreCloneResult } from "./clone/restore-clone.js";
export type { CloneFacts, ClonesFacts, EndedClone, RunningClones } from "./clone/running-clones.js";
export { receiveSnapshot, type ReceiveSnapshotOptions, type WrittenSnapshot } from "./receive.js";
export type { Reconnect } from "./lazy-monitor.js";
export type { LazyGuest, LazyRestoreOptions, LazyRestoreResult, WorkingSetUse } from "./lazy-options.js";
export { restoreVmLazily } from "./restore-lazy.js";
export { type RestoreOptions, type RestoreResult, restoreVm } from "./restore.js";
export type { RestoreMethodName } from "./restore-method.js";
export { type SaveOptions, type SaveResult, saveVm } from "./save.js";
export type { SaveMethodName, ZeroPageDetectionName } from "./save-method.js";
export { sendSnapshot, type SendSnapshotOptions } from "./send.js";
