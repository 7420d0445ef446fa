/**
 * Pictures of guest memory: what its pages are, or what became of them between two snapshots.
 *
 * @module
 */
export { CellGrid, type CellPaint } from "./cell-grid.js";
export {
  DIFFERENCE_KINDS,
  type Loudness,
  type MapKind,
  type MapKindId,
  MEMORY_KINDS,
  WORKING_SET_KINDS,
} from "./kinds.js";
export {
  type KindNumbers,
  type MapBlock,
  mapDifference,
  mapMemory,
  type MapNumbers,
  mapNumbers,
  type MapOptions,
  type MappedSnapshot,
  type MemoryMap,
} from "./memory-map.js";
export {
  type MapFormat,
  mapFormatOf,
  MAP_FORMATS,
  maxCellsOf,
  writeMap,
  type WriteMapOptions,
} from "./write-map.js";
export { mapWorkingSet } from "./working-set-map.js";
