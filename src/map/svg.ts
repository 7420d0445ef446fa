import { type Captions, escapeMarkup } from "./captions.js";
import { type MapKind, SHADES } from "./kinds.js";
import type { MapNumbers, MemoryMap } from "./memory-map.js";
import { layOut, type Shape } from "./picture.js";

/** The map as one SVG document, piece by piece. Each rectangle of cells has its addresses as a title. */
export function* mapSvg(
  map: MemoryMap,
  numbers: MapNumbers,
  captions: Captions,
): Generator<string, void, undefined> {
  const { width, height, shapes } = layOut(map, numbers, captions);
  const title = escapeMarkup(`${captions.subject}: ${captions.title}`);
  yield `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-labelledby="title">
<title id="title">${title}</title>
<style>${style(map.kinds)}</style>
<rect class="ground" width="${width}" height="${height}"/>
`;
  for (const shape of shapes) yield draw(shape, map.kinds);
  yield "</svg>\n";
}

function draw(shape: Shape, kinds: readonly MapKind[]): string {
  if (shape.shape === "text") {
    const { x, y, role, text } = shape;
    return `<text class="${role}" x="${round(x)}" y="${round(y)}">${escapeMarkup(text)}</text>\n`;
  }
  const { x, y, width, height, kind, shade, title } = shape;
  const place = `x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}"`;
  const opacity = SHADES[shade] ?? 1;
  const look = `class="k-${kinds[kind]?.id ?? ""}"${opacity === 1 ? "" : ` fill-opacity="${opacity}"`}`;
  return title === undefined
    ? `<rect ${look} ${place}/>\n`
    : `<rect ${look} ${place}><title>${escapeMarkup(title)}</title></rect>\n`;
}

function style(kinds: readonly MapKind[]): string {
  const colours = (scheme: "light" | "dark"): string =>
    kinds.map((kind) => `.k-${kind.id}{fill:${kind[scheme]}}`).join("");
  return `
text{font:12px ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1b2230;white-space:pre}
.title{font:600 24px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}.heading{font-weight:600;font-size:13px}
.quiet{fill:#566074}.ground{fill:#fbfcfe}${colours("light")}
@media (prefers-color-scheme:dark){text{fill:#e9edf5}.quiet{fill:#9aa6bb}.ground{fill:#11151c}${colours("dark")}}
`;
}

function round(value: number): string {
  return String(Math.round(value * 100) / 100);
}
