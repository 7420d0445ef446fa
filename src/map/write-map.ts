import path from "node:path";

import { OutputFile } from "../channels/index.js";
import { throwIfAborted, UsageError } from "../errors/index.js";
import { type Captions, captionsOf } from "./captions.js";
import { type MapNumbers, mapNumbers, type MemoryMap } from "./memory-map.js";

/** Formats that a map can be drawn in. */
export const MAP_FORMATS = ["html", "svg", "png"] as const;

/** A format that a map can be drawn in. */
export type MapFormat = (typeof MAP_FORMATS)[number];

/** How a map is written. */
export interface WriteMapOptions {
  /** What to call the snapshots in the picture: the names of their files, as a rule. */
  readonly labels: readonly string[];
  /** Whether an existing file may be replaced. */
  readonly replace?: boolean;
  readonly signal?: AbortSignal;
}

/** Pieces of text are gathered to so many characters before they are written. */
const WRITE_CHARACTERS = 1 << 18;

/**
 * The format that a file's name asks for.
 *
 * @throws UsageError for any other extension.
 */
export function mapFormatOf(file: string): MapFormat {
  const extension = path.extname(file).toLowerCase();
  const format = MAP_FORMATS.find((name) => extension === `.${name}`);
  if (format !== undefined) return format;
  throw new UsageError(`"${file}" does not say what to draw`, { hint: "let it end in .html, .svg or .png" });
}

/**
 * The most cells that make sense in a format, when it is fewer than usual: every cell of an SVG is an element, which
 * viewers hold in memory.
 */
export function maxCellsOf(format: MapFormat): number | undefined {
  return format === "svg" ? 16_384 + 2048 : undefined;
}

/**
 * Draws a map into a new file, in the format of its extension. The file is there whole or not at all.
 *
 * @throws UsageError for another extension or a file that exists; MachineError `io`; CancelledError.
 */
export async function writeMap(map: MemoryMap, file: string, options: WriteMapOptions): Promise<void> {
  const format = mapFormatOf(file);
  const numbers = mapNumbers(map);
  const captions = captionsOf(map, numbers, options.labels);
  const output = OutputFile.create(file, options.replace === true ? { replace: true } : {});
  try {
    let position = 0;
    for await (const bytes of draw(format, map, numbers, captions)) {
      throwIfAborted(options.signal);
      output.writeAt(bytes, 0, bytes.length, position);
      position += bytes.length;
    }
    await output.commit(options.signal);
  } finally {
    output.discard();
  }
}

/** Only what is drawn is loaded. */
async function* draw(
  format: MapFormat,
  map: MemoryMap,
  numbers: MapNumbers,
  captions: Captions,
): AsyncGenerator<Uint8Array, void, undefined> {
  switch (format) {
    case "html":
      yield* encodePieces((await import("./html.js")).mapHtml(map, numbers, captions));
      return;
    case "svg":
      yield* encodePieces((await import("./svg.js")).mapSvg(map, numbers, captions));
      return;
    case "png":
      yield (await import("./png.js")).mapPng(map, numbers, captions);
  }
}

function* encodePieces(pieces: Iterable<string>): Generator<Uint8Array, void, undefined> {
  const encoder = new TextEncoder();
  let text = "";
  for (const piece of pieces) {
    text += piece;
    if (text.length < WRITE_CHARACTERS) continue;
    yield encoder.encode(text);
    text = "";
  }
  yield encoder.encode(text);
}
