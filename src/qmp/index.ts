/**
 * A client of QEMU's monitor protocol (QMP).
 *
 * @module
 */
export { formatQmpAddress, parseQmpAddress, type QmpAddress } from "./address.js";
export {
  DEFAULT_COMMAND_TIMEOUT_MS,
  DEFAULT_CONNECT_TIMEOUT_MS,
  QmpClient,
  type ExecuteOptions,
  type ExecuteRest,
  type QmpConnectOptions,
} from "./client.js";
export type {
  MemorySizeSummary,
  QmpArgs,
  QmpCommandName,
  QmpCommands,
  QmpReturn,
  SchemaEntry,
  StatusInfo,
} from "./commands.js";
export { QmpCommandError, type QmpErrorClass } from "./errors.js";
export type { EventsOptions } from "./event-queue.js";
export {
  isQmpEvent,
  type NoData,
  type QmpEvent,
  type QmpEventData,
  type ShutdownData,
} from "./event-types.js";
export type { EventListener } from "./events.js";
export { MAX_LINE_BYTES } from "./lines.js";
export type { QemuVersion, QmpTimestamp } from "./messages.js";
export type { MigrationCapability, MigrationParameters } from "./migration-types.js";
export type { WaitLimits } from "./waiting.js";
export {
  isKnownMigrationStatus,
  isKnownRunState,
  MIGRATION_STATUSES,
  RUN_STATES,
  type KnownMigrationStatus,
  type KnownRunState,
  type MigrateArgs,
  type MigrateIncomingArgs,
  type MigrationAddress,
  type MigrationChannel,
  type MigrationInfo,
  type MigrationStatus,
  type MigrationTarget,
  type RamStats,
  type RunState,
  type SocketAddress,
  type VfioStats,
  type XbzrleCacheStats,
} from "../qapi/index.js";
