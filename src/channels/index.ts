/**
 * Ways in and out: files, sockets, descriptors, commands; migration URIs. They move bytes and know nothing of what is in them.
 *
 * @module
 */
export type * from "./byte-stream.js";
export { type Compression, openCompressed } from "./decompress.js";
export { type ByteReceiver, deliver, type Delivery } from "./delivery.js";
export type { DescriptorSets } from "./descriptor.js";
export { canDetachConnection, detachConnection, type DetachedConnection } from "./detach.js";
export { acceptConnections } from "./incoming-socket.js";
export type { DirectIo } from "./direct-io.js";
export { ReadableFile, type ReadableFileOptions } from "./file.js";
export {
  type ConnectionsToCome,
  type IncomingChannel,
  type OpenChannelOptions,
  openIncoming,
  openOutgoing,
  type OutgoingChannel,
} from "./open.js";
export { OverlappedIo } from "./overlapped-io.js";
export { OutputFile } from "./output-file.js";
export { connectSocket } from "./connect-socket.js";
export { type FilePart, SocketChannel } from "./socket.js";
export { SocketListener } from "./socket-listener.js";
export { assertSocketPathFits, listeningError } from "./socket-path.js";
export { RangeSource } from "./range-source.js";
export { SequentialFile, type SequentialFileOptions } from "./sequential-file.js";
export { errnoCode, systemError } from "./system-error.js";
export {
  DEFAULT_PSK_USERNAME,
  loadTlsCredentials,
  nameOfServerCertificate,
  PSK_FILE,
  type PskCredentials,
  pskFilePath,
  type TlsCredentials,
  type TlsEndpoint,
  type X509Credentials,
} from "./tls-credentials.js";
export { formatMigrationUri, type MigrationUri, parseFileWithOffset, parseMigrationUri } from "./uri.js";
