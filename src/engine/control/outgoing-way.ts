import type { ByteSink, OutgoingChannel } from "../../channels/index.js";
import { UsageError } from "../../errors/index.js";
import type { Capabilities, MigrationParameters } from "../../qapi/index.js";
import type { MigrationHost } from "../host.js";
import { MappedRamTarget } from "../outgoing/mapped-ram-target.js";
import { OutgoingPostcopy, type OutgoingPostcopyOptions } from "../outgoing/postcopy/outgoing-postcopy.js";
import type { PostcopyWay } from "../outgoing/postcopy/outgoing-postcopy.js";
import type { OutgoingTarget } from "../outgoing/outgoing-target.js";
import { StreamTarget } from "../outgoing/stream-target.js";
import { XbzrleCache } from "../outgoing/xbzrle-cache.js";
import { fileChannels } from "./file-channels.js";

/** A channel, and how the migration is written into it. */
export interface OutgoingWay {
  readonly target: OutgoingTarget;
  readonly xbzrle?: XbzrleCache;
  readonly postcopy?: OutgoingPostcopy;
  /** To be called when everything has arrived. */
  close(): Promise<void>;
  /** To be called when it has not: nothing that looks whole is left. */
  discard(): Promise<void>;
}

/**
 * Chooses by the capabilities how a channel is used.
 *
 * @throws UsageError when the channel cannot be used in this way.
 */
export function outgoingWay(
  host: MigrationHost,
  channel: OutgoingChannel,
  capabilities: Capabilities,
  parameters: MigrationParameters,
  postcopy: WayToPostcopy,
): OutgoingWay {
  if (capabilities["mapped-ram"]) return mappedRamWay(host, channel, capabilities, parameters);
  return capabilities["postcopy-ram"]
    ? postcopyWay(host, channel, capabilities, parameters, postcopy)
    : streamWay(host.pageSize, channel, capabilities, parameters);
}

/** What postcopy has besides a channel. */
export interface WayToPostcopy extends OutgoingPostcopyOptions {
  /** Connects once more to where the channel goes. */
  readonly openAgain: (signal: AbortSignal) => Promise<ByteSink>;
}

/**
 * A connection of a migration that may go over to postcopy, or is in it.
 *
 * @throws UsageError for a channel without a return path.
 */
export function wayOfPostcopy(
  { sink, returnPath }: OutgoingChannel,
  capabilities: Capabilities,
  openAgain: WayToPostcopy["openAgain"],
): PostcopyWay {
  if (returnPath === undefined) {
    throw new UsageError("This way of migrating has no return path, which postcopy needs", {
      hint: "use a socket, or turn postcopy-ram off",
    });
  }
  return {
    main: sink,
    returnPath,
    ...(capabilities["postcopy-preempt"] ? { openPreempt: openAgain } : {}),
  };
}

function postcopyWay(
  host: MigrationHost,
  channel: OutgoingChannel,
  capabilities: Capabilities,
  parameters: MigrationParameters,
  { openAgain, ...options }: WayToPostcopy,
): OutgoingWay {
  const postcopy = new OutgoingPostcopy(host, wayOfPostcopy(channel, capabilities, openAgain), options);
  return { ...streamWay(host.pageSize, channel, capabilities, parameters, postcopy), postcopy };
}

function mappedRamWay(
  host: MigrationHost,
  { file }: OutgoingChannel,
  capabilities: Capabilities,
  parameters: MigrationParameters,
): OutgoingWay {
  if (file === undefined) {
    throw new UsageError("A mapped-ram migration needs a file that can be written at any place", {
      hint: "migrate to file:PATH, or turn mapped-ram off",
    });
  }
  const shared = host.ramBlocks().filter((block) => block.shared === true);
  const channels = fileChannels(capabilities, parameters);
  const target = new MappedRamTarget(file, {
    ...(channels === undefined ? {} : { channels }),
    startOffset: file.startOffset,
    ...(capabilities["x-ignore-shared"] ? { leftOut: new Set(shared.map(({ name }) => name)) } : {}),
    commit: () => file.sync(),
  });
  return { target, close: () => file.close(), discard: () => file.discard() };
}

function streamWay(
  pageSize: number,
  { sink, returnPath, file }: OutgoingChannel,
  capabilities: Capabilities,
  parameters: MigrationParameters,
  postcopy?: OutgoingPostcopy,
): OutgoingWay {
  const withReturnPath = capabilities["return-path"] && postcopy === undefined;
  if (withReturnPath && returnPath === undefined) {
    throw new UsageError("This way of migrating has no return path", {
      hint: "turn return-path off, or use a socket",
    });
  }
  const xbzrle = capabilities.xbzrle ? new XbzrleCache(parameters["xbzrle-cache-size"], pageSize) : undefined;
  const target = new StreamTarget(sink, {
    zeroPages: parameters["zero-page-detection"] !== "none",
    ...(withReturnPath && returnPath !== undefined ? { returnPath } : {}),
    ...(postcopy === undefined ? {} : { postcopy: postcopy.preparation }),
    ...(xbzrle === undefined ? {} : { xbzrle }),
  });
  return {
    target,
    ...(xbzrle === undefined ? {} : { xbzrle }),
    close: () => sink.close(),
    discard: () => (file === undefined ? sink.close() : file.discard()),
  };
}
