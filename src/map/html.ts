import { printable } from "../errors/index.js";
import { allPages, type Captions, count, DRAWN_BLOCKS, escapeMarkup, share, size } from "./captions.js";
import type { CellGrid } from "./cell-grid.js";
import { SHADES } from "./kinds.js";
import type { MapBlock, MapNumbers, MemoryMap } from "./memory-map.js";
import { PAGE_SCRIPT } from "./page-script.js";
import { pageStyle } from "./page-style.js";

/** Blocks of fewer cells stand side by side. */
const SMALL_CELLS = 160;
/** Nothing may be loaded from anywhere, whatever a snapshot's texts try. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/** The map as one page that needs nothing else, piece by piece. */
export function* mapHtml(
  map: MemoryMap,
  numbers: MapNumbers,
  captions: Captions,
): Generator<string, void, undefined> {
  const heading = escapeMarkup(captions.title);
  const subject = escapeMarkup(captions.subject);
  yield `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${heading}: ${subject.toLowerCase()}</title>
<style>${pageStyle(map.kinds)}</style>
</head>
<body>
<main>
<header>
<p class="subject">${subject}</p>
<h1>${heading}</h1>
<dl class="facts">
${captions.facts.map(([name, text]) => `<div><dt>${escapeMarkup(name)}</dt><dd>${escapeMarkup(text)}</dd></div>`).join("\n")}
</dl>
</header>
`;
  yield overview(map, numbers, captions);
  const drawn = map.blocks.slice(0, DRAWN_BLOCKS);
  yield '<section class="blocks" aria-label="RAM blocks">\n';
  for (const [index, block] of drawn.entries()) yield blockMarkup(map, block, index);
  yield "</section>\n";
  yield* numbersTable(map, numbers);
  yield `</main>
<div id="cursor" hidden></div>
<div id="tip" role="status" hidden></div>
<noscript><p class="noscript">Cells are drawn by a script in this page; the numbers are complete without it.</p></noscript>
<script type="application/json" id="map">`;
  yield* mapData(map, drawn);
  yield `</script>\n<script>${PAGE_SCRIPT}</script>\n</body>\n</html>\n`;
}

function overview({ kinds }: MemoryMap, numbers: MapNumbers, captions: Captions): string {
  const total = allPages(numbers.kinds);
  const rows = kinds.map((kind) => ({ ...kind, ...(numbers.kinds[kind.id] ?? { pages: 0, bytes: 0 }) }));
  const bar = rows
    .filter(({ pages }) => pages > 0)
    .map(({ id, pages }) => `<i class="k-${id}" style="flex-grow:${pages}"></i>`)
    .join("");
  const legend = rows.map(
    ({
      id,
      label,
      meaning,
      pages,
      bytes,
    }) => `<li class="${pages === 0 ? "none" : "some"}" data-kind="${id}" data-pages="${pages}" data-bytes="${bytes}">
<i class="swatch k-${id}"></i><b>${label}</b><span class="share">${share(pages, total)}</span>
<span class="meaning">${meaning}</span><span class="figures">${count(pages)} ${pages === 1 ? "page" : "pages"} · ${size(bytes)}</span></li>`,
  );
  const notes = [captions.howToRead, ...captions.notes].map(escapeMarkup).join(" ");
  return `<section class="overview" aria-label="Legend">
<div class="bar" aria-hidden="true">${bar}</div>
<ul class="legend">
${legend.join("\n")}
</ul>
<p class="how">${notes} <span class="pointing">Point at a cell for its addresses, or focus a block and use the arrow keys.</span></p>
</section>
`;
}

function blockMarkup({ kinds }: MemoryMap, block: MapBlock, index: number): string {
  const { cells, pageSize, guestAddress } = block;
  const name = escapeMarkup(block.name);
  const at = guestAddress === undefined ? "" : ` · guest address 0x${guestAddress.toString(16)}`;
  if (cells === undefined) {
    return `<article class="small"><h2>${name}</h2><p class="meta">left out of the file: it is shared memory${at}</p></article>\n`;
  }
  const totals = cells.totals();
  const counts = kinds.flatMap(({ label }, kind) => {
    const pages = totals[kind] ?? 0;
    return pages === 0 ? [] : [`${count(pages)} ${label.toLowerCase()}`];
  });
  const summary = `${size(cells.pageCount * pageSize)}${at} · ${counts.join(", ")}`;
  return `<article class="${cells.cellCount <= SMALL_CELLS ? "small" : "large"}">
<h2>${name}</h2><p class="meta">${summary}</p>
<canvas data-block="${index}" tabindex="0" role="img" aria-label="Map of ${name}: ${counts.join(", ")}"></canvas>
</article>
`;
}

function* numbersTable({ kinds }: MemoryMap, numbers: MapNumbers): Generator<string, void, undefined> {
  yield `<section class="numbers"><h2 id="numbers">Pages and bytes of each block</h2>
<div class="scroll" tabindex="0" role="region" aria-labelledby="numbers"><table>
<thead><tr><th scope="col">Block</th>${kinds.map(({ id, label }) => `<th scope="col"><i class="swatch k-${id}"></i>${label}</th>`).join("")}</tr></thead>
<tbody>
`;
  for (const { name, kinds: figures } of numbers.blocks) yield numbersRow(name, kinds, figures);
  yield `</tbody>
<tfoot>
${numbersRow("All blocks", kinds, numbers.kinds)}</tfoot>
</table></div></section>
`;
}

function numbersRow(name: string, kinds: MemoryMap["kinds"], figures: MapNumbers["kinds"]): string {
  const cells = kinds.map(({ id }) => {
    const { pages, bytes } = figures[id] ?? { pages: 0, bytes: 0 };
    return pages === 0
      ? '<td class="none">0</td>'
      : `<td>${count(pages)}<span class="bytes">${size(bytes)}</span></td>`;
  });
  return `<tr><th scope="row">${escapeMarkup(name)}</th>${cells.join("")}</tr>\n`;
}

function* mapData(map: MemoryMap, blocks: readonly MapBlock[]): Generator<string, void, undefined> {
  const head = {
    kinds: map.kinds.map(({ id, label, loudness }) => ({ id, label, loudness })),
    shades: SHADES,
    cellPages: map.cellPages,
  };
  yield `${scriptJson(head).slice(0, -1)},"blocks":[`;
  for (const [index, { name, pageSize, guestAddress, cells }] of blocks.entries()) {
    const facts = {
      // The script sets it as text, never as markup.
      name: printable(name),
      pageSize,
      ...(guestAddress === undefined ? {} : { guestAddress: guestAddress.toString() }),
      pageCount: cells?.pageCount ?? 0,
    };
    yield `${index === 0 ? "" : ","}\n${scriptJson(facts).slice(0, -1)},"runs":[`;
    if (cells !== undefined) yield* cellRuns(cells, map.kinds.length);
    yield "]}";
  }
  yield "]}";
}

/**
 * Cells as numbers, neighbours that are the same together: how many, a mask of the kinds that are in each, and, where these
 * are several, the pages of each.
 */
function* cellRuns(cells: CellGrid, kinds: number): Generator<string, void, undefined> {
  let last = "";
  let repeats = 0;
  let comma = "";
  for (let cell = 0; cell <= cells.cellCount; cell++) {
    const text = cell === cells.cellCount ? "" : cellText(cells, cell, kinds);
    if (text !== last && repeats > 0) {
      yield `${comma}${repeats},${last}`;
      comma = ",";
      repeats = 0;
    }
    last = text;
    repeats += 1;
  }
}

function cellText(cells: CellGrid, cell: number, kinds: number): string {
  let mask = 0;
  const counts: number[] = [];
  for (let kind = 0; kind < kinds; kind++) {
    const pages = cells.count(cell, kind);
    if (pages === 0) continue;
    mask |= 1 << kind;
    counts.push(pages);
  }
  return counts.length === 1 ? String(mask) : [mask, ...counts].join(",");
}

/** JSON that cannot end the script element it stands in. */
function scriptJson(value: object): string {
  return JSON.stringify(value).replaceAll("<", "\\u003c");
}
