import { encode } from "fast-png";

import type { Captions } from "./captions.js";
import { type MapKind, SHADES } from "./kinds.js";
import type { MapNumbers, MemoryMap } from "./memory-map.js";
import { layOut } from "./picture.js";
import { GLYPH_HEIGHT, GLYPH_WIDTH, glyphOf } from "./pixel-font.js";

/** Pixels of a unit of the layout. */
const SCALE = 2;
const CHANNELS = 3;
type Colour = readonly [red: number, green: number, blue: number];

const GROUND = colourOf("#fbfcfe");
const INK = { title: colourOf("#1b2230"), heading: colourOf("#1b2230"), body: colourOf("#1b2230") };
const QUIET_INK = colourOf("#566074");
/** Pixels of the image for one of a letter. */
const LETTER_SCALE = { title: 5, heading: 2, body: 2, quiet: 2 } as const;

/** The map as a PNG image, on light ground. */
export function mapPng(map: MemoryMap, numbers: MapNumbers, captions: Captions): Uint8Array {
  const { width, height, shapes } = layOut(map, numbers, captions);
  const canvas = new Canvas(width * SCALE, height * SCALE);
  const paints = map.kinds.map((kind) => SHADES.map((opacity) => shaded(kind, map.kinds[0], opacity)));
  for (const shape of shapes) {
    if (shape.shape === "text") {
      const { x, y, text, role } = shape;
      canvas.write(text, x * SCALE, y * SCALE, LETTER_SCALE[role], role === "quiet" ? QUIET_INK : INK[role]);
    } else {
      const colour = paints[shape.kind]?.[shape.shade] ?? GROUND;
      const left = Math.round(shape.x * SCALE);
      const top = Math.round(shape.y * SCALE);
      const right = Math.max(left + 1, Math.round((shape.x + shape.width) * SCALE));
      canvas.fill(left, top, right, Math.round((shape.y + shape.height) * SCALE), colour);
    }
  }
  const { pixels } = canvas;
  return encode({ width: width * SCALE, height: height * SCALE, data: pixels, channels: CHANNELS, depth: 8 });
}

class Canvas {
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8Array;

  constructor(width: number, height: number) {
    this.width = width;
    this.height = height;
    this.pixels = new Uint8Array(width * height * CHANNELS);
    this.fill(0, 0, width, height, GROUND);
  }

  fill(left: number, top: number, right: number, bottom: number, [red, green, blue]: Colour): void {
    const end = Math.min(right, this.width);
    for (let y = top; y < Math.min(bottom, this.height); y++) {
      let at = (y * this.width + left) * CHANNELS;
      for (let x = left; x < end; x++) {
        this.pixels[at++] = red;
        this.pixels[at++] = green;
        this.pixels[at++] = blue;
      }
    }
  }

  /** @param y Of the base line. */
  write(text: string, x: number, y: number, scale: number, colour: Colour): void {
    const top = Math.round(y) - GLYPH_HEIGHT * scale;
    let left = Math.round(x);
    for (const letter of text) {
      for (const [column, bits] of glyphOf(letter).entries()) {
        for (let row = 0; row < 8; row++) {
          if (((bits >>> row) & 1) === 0) continue;
          const at = left + column * scale;
          this.fill(at, top + row * scale, at + scale, top + (row + 1) * scale, colour);
        }
      }
      left += (GLYPH_WIDTH + 1) * scale;
    }
  }
}

function shaded(kind: MapKind, ground: MapKind | undefined, opacity: number): Colour {
  const over = colourOf(kind.light);
  const under = ground === undefined ? GROUND : colourOf(ground.light);
  const mix = (index: 0 | 1 | 2): number => Math.round(over[index] * opacity + under[index] * (1 - opacity));
  return [mix(0), mix(1), mix(2)];
}

function colourOf(text: string): Colour {
  const value = Number.parseInt(text.slice(1), 16);
  return [value >>> 16, (value >>> 8) & 0xff, value & 0xff];
}
