import { SectionType } from "../../wire/index.js";
import type { RamSectionType } from "../migration-target.js";
import type { MultifdReceiver } from "./multifd-receiver.js";
import type { MultifdSyncMode } from "./sync-mode.js";

/**
 * The main channel's part in keeping the channels together: it says when they are to be synced, and in which way is known
 * from the machine type, from the caller, or seen.
 */
export class MainChannelSync {
  readonly #receiver: Pick<MultifdReceiver, "sync" | "finish" | "findSyncMode">;
  #mode: MultifdSyncMode | undefined;
  /** A sync was taken for that of a section, and nothing but the channels' first packets spoke for it. */
  #guessed = false;

  /** @param mode Where it is known. */
  constructor(
    receiver: Pick<MultifdReceiver, "sync" | "finish" | "findSyncMode">,
    mode: MultifdSyncMode | undefined,
  ) {
    this.#receiver = receiver;
    this.#mode = mode;
  }

  /** The source's FLUSH record: a round is over. */
  async flush(): Promise<void> {
    this.#mode = "round";
    const alreadySynced = this.#guessed;
    this.#guessed = false;
    // Channels that had no pages in the first round look like those that are synced before it.
    if (!alreadySynced) await this.#receiver.sync();
  }

  /** A part of the RAM section is over. */
  async endOfSection(type: RamSectionType): Promise<void> {
    if (this.#mode === undefined) {
      this.#mode = await this.#receiver.findSyncMode();
      this.#guessed = this.#mode === "section";
      if (this.#guessed) await this.#receiver.sync();
    } else if (this.#mode === "section") {
      this.#guessed = false;
      await this.#receiver.sync();
    }
    if (type === SectionType.END) await this.#receiver.finish();
  }
}
