import { once } from "node:events";
import process from "node:process";
import { setImmediate as nextTurn } from "node:timers/promises";

import { parseFileWithOffset } from "../../channels/uri.js";
import { FormatError, printable, throwIfAborted, UsageError } from "../../errors/index.js";
import { descriptionLines } from "../../snapshot/inspect-description.js";
import { inspectionJson } from "../../snapshot/inspect-json.js";
import { type InspectedDevice, inspectSnapshot, type SnapshotInspection } from "../../snapshot/inspect.js";
import { type CommonOptions, withContext } from "../context.js";
import { treeLines } from "../tree.js";

/** Lines for a pipe are cut here: nobody knows how wide what is behind it is. */
const PIPE_COLUMNS = 120;
const PIECE_CHARACTERS = 1 << 16;

/** `ramport inspect`. */
export async function inspect(
  file: string,
  options: CommonOptions & {
    readonly device?: readonly string[];
    readonly bytes: number;
    readonly describe?: boolean;
  },
): Promise<void> {
  const { path, offset } = parseFileWithOffset(file);
  const isWanted = await deviceFilter(options.device);
  await withContext(options, async ({ signal, onProgress }) => {
    const inspection = await inspectSnapshot(path, { offset, signal, onProgress });
    const errors: Error[] = [...inspection.problems];
    try {
      const devices = inspection.devices.filter(({ name, instance }) => isWanted(name, instance));
      if (devices.length === 0 && options.device !== undefined) {
        throw new UsageError("No device fits", {
          expected: options.device.join(", "),
          hint: "ramport info lists them",
        });
      }
      await print(output(inspection, devices, isWanted, options, errors), signal);
    } finally {
      inspection.close();
    }
    // Everything that can be shown has been; scripts must hear of the rest all the same.
    if (errors[0] !== undefined) throw errors[0];
  });
}

/** @param errors Takes what is wrong with single devices. */
function output(
  inspection: SnapshotInspection,
  devices: readonly InspectedDevice[],
  isWanted: DeviceFilter,
  options: Parameters<typeof inspect>[1],
  errors: Error[],
): Iterable<string> {
  const { description } = inspection;
  if (options.describe === true) {
    if (description === undefined)
      throw new FormatError("unsupported", "The snapshot has no vmstate description");
    return withNewlines(descriptionLines(description, options.device === undefined ? undefined : isWanted));
  }
  if (options.json === true) {
    return inspectionJson(inspection, { devices, onError: (error) => errors.push(error) });
  }
  return withNewlines(describe(inspection, devices, options.bytes, errors));
}

type DeviceFilter = (name: string, instance: number) => boolean;

/** A name with characters that mean something in a glob is also found as it is. */
async function deviceFilter(globs: readonly string[] | undefined): Promise<DeviceFilter> {
  if (globs === undefined) return () => true;
  if (globs.includes("")) throw new UsageError("--device takes a name, not nothing");
  const { default: picomatch } = await import("picomatch");
  // bash: a star stands for slashes too, as names are full of them.
  const fits = picomatch([...globs], { bash: true, dot: true, nonegate: true });
  return (name, instance) => [name, `${name}/${instance}`].some((text) => globs.includes(text) || fits(text));
}

function* describe(
  { machine, runState, devices: all }: SnapshotInspection,
  devices: readonly InspectedDevice[],
  limit: number,
  errors: Error[],
): Generator<string, void, undefined> {
  const state = runState === undefined ? "" : `, ${runState} when saved`;
  const count = devices.length === all.length ? `${all.length}` : `${devices.length} of ${all.length}`;
  yield `${machine === "" ? "A machine" : printable(machine)}${state}: ${count} devices`;
  const width = process.stdout.isTTY ? process.stdout.columns : PIPE_COLUMNS;
  for (const device of devices) {
    const { name, instance, version, payloadOffset, payloadLength } = device;
    const size = payloadLength === 1 ? "1 byte" : `${payloadLength} bytes`;
    yield "";
    yield `${printable(name)}/${instance}  version ${version}, ${size} at ${payloadOffset}`;
    try {
      const payload = device.payload();
      yield* treeLines(device.values(payload), { payload, payloadOffset, width, limit });
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      errors.push(error);
      yield `  ${error.message}`;
    }
  }
}

function* withNewlines(lines: Iterable<string>): Generator<string, void, undefined> {
  let text = "";
  for (const line of lines) {
    text += `${line}\n`;
    if (text.length < PIECE_CHARACTERS) continue;
    yield text;
    text = "";
  }
  yield text;
}

async function print(pieces: Iterable<string>, signal: AbortSignal): Promise<void> {
  for (const piece of pieces) {
    if (!process.stdout.write(piece)) {
      await once(process.stdout, "drain", { signal }).catch((error: unknown) => {
        throwIfAborted(signal);
        throw error;
      });
    }
    // Or no signal is heard before the end.
    await nextTurn();
    throwIfAborted(signal);
  }
}
