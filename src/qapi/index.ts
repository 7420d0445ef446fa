/**
 * The vocabulary of QEMU's migration commands: states, answers, capabilities and parameters, and the rules for setting
 * them. The client of the monitor protocol and the engine share it; it imports neither.
 *
 * @module
 */
export {
  CAPABILITIES,
  CAPABILITY_NAMES,
  capabilitiesFrom,
  DEFAULT_CAPABILITIES,
  isCapabilityName,
  type Capabilities,
  type CapabilityName,
  type CapabilitySpec,
  type CapabilitySupport,
  type MigrationCapabilityStatus,
} from "./capabilities.js";
export {
  checkCapabilities,
  findCapabilityConflict,
  findLateCapability,
  findUnsupportedCapability,
  type CapabilityChanges,
  type MigrationRole,
} from "./capability-rules.js";
export type {
  MigrateArgs,
  MigrateIncomingArgs,
  MigrationAddress,
  MigrationChannel,
  MigrationTarget,
  SocketAddress,
} from "./channels.js";
export type { MigrationInfo, RamStats, VfioStats, XbzrleCacheStats } from "./migration-info.js";
export {
  isKnownMigrationStatus,
  MIGRATION_STATUSES,
  type KnownMigrationStatus,
  type MigrationStatus,
} from "./migration-status.js";
export {
  DEFAULT_PARAMETERS,
  MIGRATION_MODES,
  MULTIFD_COMPRESSIONS,
  ZERO_PAGE_DETECTIONS,
  type BitmapMigrationBitmapAlias,
  type BitmapMigrationNodeAlias,
  type MigrationMode,
  type MigrationParameters,
  type MultifdCompression,
  type ParameterName,
  type ZeroPageDetection,
} from "./parameters.js";
export {
  checkParameters,
  checkParameterValue,
  describeParameter,
  findParameterConflict,
  findUnsupportedParameter,
  type ParameterChanges,
} from "./parameter-rules.js";
export {
  isParameterName,
  PARAMETER_NAMES,
  PARAMETERS,
  type ParameterSpec,
  type ParameterSupport,
  type ParameterType,
  type ParameterUnit,
} from "./parameter-table.js";
export { isKnownRunState, RUN_STATES, type KnownRunState, type RunState } from "./run-states.js";
export type { SettingProblem } from "./setting-problem.js";
export {
  capabilitiesAnswer,
  parametersAnswer,
  parseCapabilityChanges,
  parseParameterChanges,
} from "./settings-commands.js";
export { parseUuid } from "./uuid.js";
