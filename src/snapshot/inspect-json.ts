import { FormatError } from "../errors/index.js";
import { vmstateJson } from "../wire/index.js";
import type { InspectedDevice, SnapshotInspection } from "./inspect.js";

/** Pieces are gathered up to this before they are handed out: one a field would be one system call a field. */
const PIECE_CHARACTERS = 1 << 16;

/** What is to be in the JSON. */
export interface InspectionJsonOptions {
  /** Of the inspection's devices; all of them without it. */
  readonly devices?: readonly InspectedDevice[];
  /** Told of each device that cannot be decoded; it stands in the document with `error` in place of `values`. */
  readonly onError?: (error: FormatError) => void;
}

/**
 * An inspection as one JSON document, piece by piece: never more than one device's payload is in memory. Each device is
 * decoded twice, so that the document stays whole where one of them is damaged.
 *
 * @throws FormatError when the file has become shorter; MachineError `io`.
 */
export function* inspectionJson(
  inspection: SnapshotInspection,
  { devices = inspection.devices, onError }: InspectionJsonOptions = {},
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
    yield* gathered(deviceJson(device, onError));
  }
  yield devices.length === 0 ? "]\n}\n" : "\n  ]\n}\n";
}

function* deviceJson(
  device: InspectedDevice,
  onError: InspectionJsonOptions["onError"],
): Generator<string, void, undefined> {
  const { name, instance, version, offset, length, payloadOffset, payloadLength, layout } = device;
  const payload = device.payload();
  const checked = check(device, payload);
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
  if (checked instanceof FormatError) {
    onError?.(checked);
    yield JSON.stringify({ ...facts, error: { code: checked.code, message: checked.message } });
    return;
  }
  yield `${JSON.stringify({ ...facts, undecodedBytes: checked }).slice(0, -1)},"values":`;
  yield* vmstateJson(device.values(payload));
  yield "}";
}

/** How many bytes stay undecoded, or why nothing can be decoded. */
function check(device: InspectedDevice, payload: Uint8Array): number | FormatError {
  let undecoded = 0;
  try {
    for (const event of device.values(payload)) {
      if (event.kind === "value" && event.undecoded !== undefined) undecoded += event.size;
    }
    return undecoded;
  } catch (error) {
    if (error instanceof FormatError) return error;
    throw error;
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
