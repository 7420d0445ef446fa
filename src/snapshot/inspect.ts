import type { RandomAccessSource } from "../channels/index.js";
import type { ProgressListener } from "../engine/index.js";
import {
  decodeVmstate,
  type DeviceLayout,
  layoutOfDescription,
  matchLayouts,
  type VmstateEvent,
} from "../wire/index.js";
import { openSnapshot, type SnapshotLocation } from "./open.js";
import type { Snapshot, SnapshotSection } from "./snapshot.js";

/** How to inspect. */
export interface InspectOptions extends SnapshotLocation {
  readonly signal?: AbortSignal;
  /** Called while a stream has to be walked, as a compressed one has. */
  readonly onProgress?: ProgressListener;
}

/** A device of a snapshot. Offsets are those of the file, or of the unpacked stream where the file is compressed. */
export interface InspectedDevice {
  /** Raw: may hold any character. */
  readonly name: string;
  readonly instance: number;
  readonly version: number;
  /** Offset of the section's type byte. */
  readonly offset: number;
  /** Bytes of the section, from type byte to footer. */
  readonly length: number;
  readonly payloadOffset: number;
  readonly payloadLength: number;
  /** What the description says of the device; undefined where it says nothing. */
  readonly layout?: DeviceLayout;
  /**
   * Reads the payload.
   *
   * @throws FormatError when the file ends inside it; MachineError `io`; UsageError when the inspection is closed.
   */
  payload(): Uint8Array;
  /**
   * Decodes the payload by the description, anew with each call: for `buildVmstateTree`, `vmstateJson` and the like.
   *
   * @param payload What {@link payload} returned, where the caller has it already.
   * @throws FormatError while iterating, when payload and description contradict each other; what {@link payload} throws.
   */
  values(payload?: Uint8Array): Generator<VmstateEvent, void, undefined>;
}

/** An open snapshot, to look into its devices. */
export interface SnapshotInspection {
  readonly machine: string;
  readonly container: Snapshot["container"];
  readonly format: Snapshot["format"];
  /** Bytes. */
  readonly targetPageSize: number;
  /** In stream order. */
  readonly devices: readonly InspectedDevice[];
  /** Text of the vmstate description. */
  readonly description?: string;
  /** What the guest did when it was saved, in QEMU's words: `running`, `paused`, ... Absent where the file does not say. */
  readonly runState?: string;
  /** What is wrong with the file, as far as it could be passed over. */
  readonly problems: readonly Error[];
  /** Closes the file. Closing twice is fine. */
  close(): void;
}

/**
 * Opens a snapshot to look into its devices. No page is read: of a stream only head and tail are, whatever its size; only
 * what is compressed has to be unpacked whole.
 *
 * @param file A path, or an open file: that one stays the caller's.
 * @throws FormatError when it is no snapshot or its RAM blocks are damaged; MachineError `io`; UsageError; CancelledError.
 */
export async function inspectSnapshot(
  file: string | RandomAccessSource,
  options: InspectOptions = {},
): Promise<SnapshotInspection> {
  const snapshot = await openSnapshot(file, { ...options, tolerant: true, pages: false });
  try {
    return inspect(snapshot);
  } catch (error) {
    snapshot.close();
    throw error;
  }
}

function inspect(snapshot: Snapshot): SnapshotInspection {
  const { configuration, container, format, targetPageSize, description, problems } = snapshot;
  const devices = listDevices(snapshot);
  const runState = runStateOf(devices);
  return {
    machine: configuration.machine,
    container,
    format,
    targetPageSize,
    devices,
    ...(description === undefined ? {} : { description: description.text }),
    ...(runState === undefined ? {} : { runState }),
    problems,
    close: () => snapshot.close(),
  };
}

function listDevices(snapshot: Snapshot): InspectedDevice[] {
  const { description } = snapshot;
  const sections = snapshot.sections.filter(hasPayload);
  // Sections that come in parts are not described.
  const described = sections.filter(({ iterative }) => !iterative);
  const layouts = new Map<SnapshotSection, DeviceLayout | undefined>();
  if (description !== undefined) {
    const matched = matchLayouts(layoutOfDescription(description), described);
    for (const [index, section] of described.entries()) layouts.set(section, matched[index]);
  }
  return sections.map((section) => {
    const { name, instance, version, offset, length, payloadOffset, payloadLength } = section;
    const layout = layouts.get(section);
    const payload = (): Uint8Array => snapshot.readSection(section);
    return {
      name,
      instance,
      version,
      offset,
      length,
      payloadOffset,
      payloadLength,
      ...(layout === undefined ? {} : { layout }),
      payload,
      values: (bytes = payload()) => decodeVmstate(layout, { section: name, payload: bytes, payloadOffset }),
    };
  });
}

function hasPayload(
  section: SnapshotSection,
): section is SnapshotSection & { readonly payloadOffset: number; readonly payloadLength: number } {
  return section.payloadOffset !== undefined && section.payloadLength !== undefined;
}

/** QEMU keeps it as text in a buffer of fixed length, behind a be32 with the text's length. */
function runStateOf(devices: readonly InspectedDevice[]): string | undefined {
  const state = devices.find(({ name }) => name === "globalstate");
  const text = state?.payload().subarray(4) ?? new Uint8Array();
  const end = text.indexOf(0);
  // The names are words: anything else is damage, and for the device's own entry to show.
  const word = new TextDecoder("latin1").decode(end < 0 ? text : text.subarray(0, end));
  return /^[a-z-]+$/.test(word) ? word : undefined;
}
