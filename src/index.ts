/**
 * ramport: save, move, inspect and restore the memory of virtual machines.
 *
 * This is what most users need. The layers have entry points of their own: `ramport/errors`, `ramport/wire`,
 * `ramport/memory`, `ramport/channels`, `ramport/engine`, `ramport/qapi`, `ramport/qmp`, `ramport/monitor`,
 * `ramport/snapshot`, `ramport/map`, `ramport/session`, `ramport/hosts/v86`, `ramport/vm`.
 *
 * @module
 */
export * from "./errors/index.js";
export { type MigrationUri, parseMigrationUri } from "./channels/index.js";
export type { ProgressListener, TransferProgress } from "./engine/index.js";
export { parseQmpAddress, type QmpAddress, QmpClient, QmpCommandError } from "./qmp/index.js";
export * from "./session/index.js";
export * from "./snapshot/index.js";
export * from "./map/index.js";
