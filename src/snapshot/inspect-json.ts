import { FormatError } from "../errors/index.js";
import { type VmstateEvent, vmstateJson } from "../wire/index.js";
import type { InspectedDevice, SnapshotInspection } from "./inspect.js";

/** Pieces are gathered up to this before they are handed out: one a device would be one system call a device. */
const PIECE_CHARACTERS = 1 << 16;
/** Values whose text is longer are decoded twice. */
const HELD_CHARACTERS = 1 << 20;

/** What is to be in the JSON. */
export interface InspectionJsonOptions {
  /** Of the inspection's devices; all of them without it. */
  readonly devices?: readonly InspectedDevice[];
  /** Told of each device that cannot be decoded; it stands in the document with `error` in place of `values`. */
  readonly onError?: (error: FormatError) => void;
}

/**
 * An inspection as one JSON document, piece by piece: never more than one device's payload is in memory. The document
 * stays whole where a device is damaged: its values are held back until all of them are decoded, and decoded twice where
 * their text is too long for that.
 *
 * @throws FormatError when the file has become shorter; MachineError `io`.
 */
export function* inspectionJson(
  inspection: SnapshotInspection,
  options: InspectionJsonOptions = {},
): Generator<string, void, undefined> {
  yield* gathered(documentJson(inspection, options));
}

function* documentJson(
  inspection: SnapshotInspection,
  { devices = inspection.devices, onError }: InspectionJsonOptions,
): Generator<string, void, undefined> {
  const { machine, container, format, targetPageSize, runState, problems } = inspection;
  const facts = {
    machine,
    container,
    format,
    targetPageSize,
    ...(runState === undefined ? {} : { runState }),
    problems: problems.map(({ message }) => message),
  };
  yield JSON.stringify(facts, undefined, 2).replace(/\n\}$/, ',\n  "devices": [');
  for (const [index, device] of devices.entries()) {
    yield index === 0 ? "\n    " : ",\n    ";
    yield* deviceJson(device, onError);
  }
  yield devices.length === 0 ? "]\n}\n" : "\n  ]\n}\n";
}

function* deviceJson(
  device: InspectedDevice,
  onError: InspectionJsonOptions["onError"],
): Generator<string, void, undefined> {
  const { name, instance, version, offset, length, payloadOffset, payloadLength, layout } = device;
  const payload = device.payload();
  const decoded = decode(device, payload);
  const facts = {
    name,
    instance,
    version,
    offset,
    length,
    payloadOffset,
    payloadLength,
    described: layout?.fields !== undefined,
  };
  if (decoded instanceof FormatError) {
    onError?.(decoded);
    yield JSON.stringify({ ...facts, error: { code: decoded.code, message: decoded.message } });
    return;
  }
  const { undecodedBytes, text } = decoded;
  yield `${JSON.stringify({ ...facts, undecodedBytes }).slice(0, -1)},"values":`;
  if (text === undefined) yield* vmstateJson(device.values(payload));
  else yield text;
  yield "}";
}

/** How many bytes stay undecoded, and the values as JSON where it is short enough; or why they cannot be decoded. */
function decode(
  device: InspectedDevice,
  payload: Uint8Array,
): { readonly undecodedBytes: number; readonly text: string | undefined } | FormatError {
  const undecoded = { bytes: 0 };
  let text: string | undefined = "";
  try {
    for (const piece of vmstateJson(countUndecoded(device.values(payload), undecoded))) {
      if (text !== undefined) text = text.length > HELD_CHARACTERS ? undefined : text + piece;
    }
    return { undecodedBytes: undecoded.bytes, text };
  } catch (error) {
    if (error instanceof FormatError) return error;
    throw error;
  }
}

function* countUndecoded(
  events: Iterable<VmstateEvent>,
  undecoded: { bytes: number },
): Generator<VmstateEvent, void, undefined> {
  for (const event of events) {
    if (event.kind === "value" && event.undecoded !== undefined) undecoded.bytes += event.size;
    yield event;
  }
}

function* gathered(pieces: Iterable<string>): Generator<string, void, undefined> {
  let text = "";
  for (const piece of pieces) {
    text += piece;
    if (text.length < PIECE_CHARACTERS) continue;
    yield text;
    text = "";
  }
  yield text;
}
