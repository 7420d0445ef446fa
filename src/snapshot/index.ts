/**
 * Operations over snapshot files: open, describe, verify.
 *
 * @module
 */
export { type ConvertOptions, type ConvertResult, convertSnapshot } from "./convert.js";
export type { ConvertedFrom, ConvertInput } from "./convert-input.js";
export { type CopyOptions, type CopyResult, copySnapshot } from "./copy.js";
export {
  assertComparable,
  type BlockPair,
  type DiffBlock,
  type DiffBlockLeftOut,
  type DiffBlockOnlyIn,
  type DiffEvent,
  type DiffRange,
  diffSnapshots,
  type DiffSummary,
  type PageChanges,
  pairBlocks,
} from "./diff.js";
export type {
  DeviceDifference,
  DeviceNotCompared,
  DeviceOnlyIn,
  FieldDifference,
  FieldValue,
} from "./diff-devices.js";
export { comparePages, type PageChange, type PageChangeRun } from "./diff-pages.js";
export { extractBlocks, type ExtractOptions, type ExtractResult } from "./extract.js";
export { blockFileName, type ExtractedBlock, type ExtractTarget } from "./extract-files.js";
export { type BlockInfo, type PageTotals, snapshotInfo, type SnapshotInfo } from "./info.js";
export { type BlockPages, type PageWindow, pageWindows, type WalkOptions, WalkPace } from "./page-windows.js";
export {
  type InspectedDevice,
  type InspectOptions,
  inspectSnapshot,
  type SnapshotInspection,
} from "./inspect.js";
export { descriptionLines, type DeviceFilter } from "./inspect-description.js";
export { inspectionJson, type InspectionJsonOptions } from "./inspect-json.js";
export { openSnapshot, type OpenSnapshotOptions, type SnapshotLocation } from "./open.js";
export { type SealOptions, type SealResult, sealSnapshot } from "./seal.js";
export type {
  LibvirtImage,
  Snapshot,
  SnapshotBlock,
  SnapshotContainer,
  SnapshotFormat,
  SnapshotSection,
} from "./snapshot.js";
export { type VerifyOptions, verifySnapshot } from "./verify.js";
export type { VerifiedBlock, VerifyResult } from "./verify-result.js";
export type { CheckedPages } from "./verify-pages.js";
export type { VerifyProblem, VerifyProblemCode } from "./verify-problems.js";
export { readLibvirtXml } from "./libvirt-xml.js";
export {
  isSameSnapshot,
  layoutDifference,
  type MemoryLayout,
  mergeWorkingSets,
  trimWorkingSet,
  type WorkingSet,
  type WorkingSetBlock,
  type WorkingSetIdentity,
  WorkingSetLimits,
  type WorkingSetNumbers,
  workingSetNumbers,
  WorkingSetRecorder,
  type WorkingSetRun,
} from "./working-set.js";
export {
  readWorkingSet,
  readWorkingSetIfThere,
  workingSetIdentity,
  workingSetPathOf,
  writeWorkingSet,
} from "./working-set-file.js";
export { decodeWorkingSet, encodeWorkingSet } from "./working-set-format.js";
