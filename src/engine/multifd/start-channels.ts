import { FormatError } from "../../errors/index.js";
import type { Configuration } from "../../wire/index.js";
import type { MultifdChannel } from "./connections.js";
import { MainChannelSync } from "./main-channel-sync.js";
import { MultifdReceiver, type MultifdReceiverOptions } from "./multifd-receiver.js";
import { type MultifdSyncMode, multifdSyncModeOf } from "./sync-mode.js";

/** A multifd migration's channels. */
export interface MultifdReceiving {
  readonly channels: readonly MultifdChannel[];
  /** What the channels said of their machine: 16 bytes. One that is in the stream must be the same. */
  readonly uuid?: Uint8Array;
  /** How the source syncs them; without it the machine type says so. */
  readonly syncMode?: MultifdSyncMode;
  /** The same for machine types that do not say it. Without either, the channels' first packets show it. */
  readonly otherwiseSyncMode?: MultifdSyncMode;
}

/** Channels from which pages come. */
export interface StartedChannels {
  readonly receiver: MultifdReceiver;
  readonly sync: MainChannelSync;
}

/** Begins to receive, once the block list says where pages can go. */
export function startChannels(
  { channels, syncMode, otherwiseSyncMode }: MultifdReceiving,
  configuration: Configuration | undefined,
  options: MultifdReceiverOptions,
): StartedChannels {
  const receiver = new MultifdReceiver(channels, options);
  const mode = syncMode ?? multifdSyncModeOf(configuration?.machine ?? "") ?? otherwiseSyncMode;
  return { receiver, sync: new MainChannelSync(receiver, mode) };
}

/** @throws FormatError `inconsistent` when the channels are of another machine than the stream. */
export function checkUuid(
  multifd: Pick<MultifdReceiving, "uuid"> | undefined,
  configuration: Pick<Configuration, "uuid"> | undefined,
): void {
  const ofChannels = multifd?.uuid;
  const ofStream = configuration?.uuid;
  if (ofChannels === undefined || ofStream === undefined || Buffer.compare(ofChannels, ofStream) === 0)
    return;
  throw new FormatError("inconsistent", "The multifd channels are of another machine than the main channel", {
    expected: `uuid ${Buffer.from(ofStream).toString("hex")}`,
    actual: Buffer.from(ofChannels).toString("hex"),
  });
}
