/**
 * The migration engine: streams and mapped-ram files in and out.
 *
 * @module
 */
export { type Clock, systemClock } from "./clock.js";
export { MigrationControl, type MigrationControlOptions } from "./control/migration-control.js";
export { decodeGlobalState, isGlobalState } from "./global-state.js";
export { HashDirtyLog } from "./dirty-log/hash-dirty-log.js";
export { MarkedDirtyLog } from "./dirty-log/marked-dirty-log.js";
export {
  type Breathe,
  type DeviceField,
  type DeviceState,
  type DirtyLog,
  type DirtyLogCost,
  eachPiece,
  eventLoopTurns,
  type HostRamBlock,
  type MigrationHost,
  ShadowDirtyLog,
} from "./host.js";
export { loadHost, type LoadHostOptions, type LoadHostResult } from "./incoming/load-host.js";
export type { IncomingRules } from "./incoming/host-checks.js";
export { loadHostFromStream, type LoadStreamOptions, type LoadStreamResult } from "./incoming/load-stream.js";
export { PageIndex, PagePlaces, type RecordCounts, UnindexableError } from "./incoming/page-index.js";
export type { LoadPostcopyOptions } from "./incoming/postcopy/host-postcopy.js";
export { PostcopyListener, type PostcopyListenerOptions } from "./incoming/postcopy/postcopy-listener.js";
export { readMigrationHead, receiveMigration } from "./incoming/receive.js";
export type { ReceiveOptions, ReceiveResult } from "./incoming/receive-options.js";
export { type PassedSection, StreamFacts, type StreamHead } from "./incoming/stream-facts.js";
export { type MultifdChannel, type MultifdConnections, sortConnections } from "./multifd/connections.js";
export type { MultifdReceiving } from "./multifd/start-channels.js";
export { type MultifdSyncMode, multifdSyncModeOf, multifdSyncModeOfQemu } from "./multifd/sync-mode.js";
export { IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY } from "./mapped-ram/capability.js";
export { findOverlaps, type Overlap } from "./mapped-ram/areas.js";
export { checkPageBitmaps, countPages, readPageBitmap } from "./mapped-ram/bitmaps.js";
export {
  type EarlySection,
  type MappedRamBlock,
  type MappedRamFile,
  openMappedRam,
} from "./mapped-ram/open.js";
export { readMappedRamTail } from "./mapped-ram/tail.js";
export { type PageCounts, type PlacedBlock, PlacedPages } from "./mapped-ram/placed-pages.js";
export type { PositionedFile } from "./mapped-ram/positioned-file.js";
export {
  clearStalePages,
  findStaleBytes,
  type FindStaleOptions,
  type SparseSource,
  type StaleBytes,
  type StalePageFile,
} from "./mapped-ram/stale-pages.js";
export { MappedRamWriter } from "./mapped-ram/writer.js";
export { MigrationState } from "./migration-states.js";
export type { MigrationTarget, RamSectionType } from "./migration-target.js";
export { MappedRamTarget, type MappedRamTargetOptions } from "./outgoing/mapped-ram-target.js";
export type { PacketCompression } from "./multifd/compression/packet-compression.js";
export { sendMultifdHello } from "./multifd/send-hello.js";
export type { MultifdSendOptions } from "./multifd/send-pages.js";
export { OutgoingMigration } from "./outgoing/outgoing-migration.js";
export type { OutgoingOptions } from "./outgoing/outgoing-options.js";
export type {
  OnMissingPage,
  PostcopyBlock,
  PostcopyBlocktime,
  PostcopyConnection,
  PostcopyEvents,
  PostcopyHost,
  PostcopyListening,
  PostcopyMemory,
  PostcopyStart,
  PostcopyStatistics,
  PostcopyStatus,
} from "./postcopy/postcopy-host.js";
export type { OutgoingTarget } from "./outgoing/outgoing-target.js";
export { StreamTarget, type StreamTargetOptions } from "./outgoing/stream-target.js";
export type { PostcopyChannels, PreemptChannel } from "./outgoing/postcopy/connection.js";
export { type HostPageSizeOf, pagesOfMappedRam } from "./outgoing/postcopy/file-pages.js";
export type { PageSource } from "./outgoing/postcopy/page-source.js";
export {
  lazyLoadMappedRam,
  type LazyLoadMilestone,
  type LazyLoadOptions,
  type LazyLoadResult,
  resumeLazyLoad,
} from "./outgoing/postcopy/lazy-load.js";
export {
  encodePostcopyDevices,
  encodePostcopyHead,
  type PostcopyHead,
} from "./outgoing/postcopy/postcopy-head.js";
export type { PageServerStatistics } from "./outgoing/postcopy/postcopy-statistics.js";
export type { NamedPageRun, Prefetch } from "./outgoing/postcopy/prefetch.js";
export { saveHost, type SaveHostOptions, type SaveHostResult } from "./outgoing/save-host.js";
export { sendMappedRam, type SendOptions, type SendResult } from "./outgoing/send.js";
export { type ProgressListener, ProgressMeter, type TransferProgress } from "./progress.js";
