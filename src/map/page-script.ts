/**
 * The script of the page. It paints the cells, again whenever the width or the colour scheme changes, and says what is
 * under the pointer. Texts from the snapshot become text nodes, never markup.
 */
export const PAGE_SCRIPT = String.raw`
"use strict";
(() => {
  const map = JSON.parse(document.getElementById("map").textContent);
  const tip = document.getElementById("tip");
  const cursor = document.getElementById("cursor");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hex = (value) => "0x" + value.toString(16);
  const number = (value) => value.toLocaleString("en-US");

  // Runs of equal cells: how many, a mask of kinds, and, where these are several, the pages of each.
  function decode(block) {
    const cells = Math.ceil(block.pageCount / map.cellPages);
    const masks = new Uint8Array(cells);
    const counts = new Map();
    const { runs } = block;
    for (let at = 0, cell = 0; at < runs.length;) {
      const repeat = runs[at++];
      const mask = runs[at++];
      let kinds = 0;
      for (let bits = mask; bits > 0; bits >>= 1) kinds += bits & 1;
      const several = kinds > 1 ? runs.slice(at, (at += kinds)) : undefined;
      for (let end = cell + repeat; cell < end; cell++) {
        masks[cell] = mask;
        if (several) counts.set(cell, several);
      }
    }
    return { ...block, cells, masks, counts };
  }

  const pagesOf = (block, cell) => Math.min(map.cellPages, block.pageCount - cell * map.cellPages);

  function kindsOf(block, cell) {
    const several = block.counts.get(cell);
    const found = [];
    for (let kind = 0; kind < map.kinds.length; kind++) {
      if (block.masks[cell] & (1 << kind)) {
        found.push({ ...map.kinds[kind], pages: several ? several[found.length] : pagesOf(block, cell) });
      }
    }
    return found;
  }

  // The most frequent of the loudest kinds; the more pages are as loud, the stronger.
  function paintOf(block, cell) {
    const kinds = kindsOf(block, cell);
    const loudness = Math.max(...kinds.map((kind) => kind.loudness));
    const loud = kinds.filter((kind) => kind.loudness === loudness);
    const pages = loud.reduce((sum, kind) => sum + kind.pages, 0);
    const best = loud.reduce((a, b) => (b.pages > a.pages ? b : a));
    const share = loudness === 0 ? 1 : pages / pagesOf(block, cell);
    return { id: best.id, opacity: map.shades[Math.max(0, Math.ceil(share * map.shades.length) - 1)] };
  }

  // Large cells for blocks that have few; rows begin at round addresses.
  function layOut(block, width) {
    const gutter = width >= 600 && block.cells > 160 ? 96 : 0;
    const room = width - gutter;
    for (const size of [14, 12, 10, 8, 6, 5, 4]) {
      const fitting = Math.floor(room / size);
      const columns = Math.min(block.cells, fitting >= 16 ? fitting - (fitting % 16) : fitting);
      const rows = Math.ceil(block.cells / columns);
      if (rows * size <= 240 || size === 4) {
        return { gutter, size, columns, rows, gap: size >= 6 ? 1 : 0 };
      }
    }
  }

  const strips = [...document.querySelectorAll("canvas[data-block]")].map((canvas) => {
    const block = decode(map.blocks[Number(canvas.dataset.block)]);
    const paints = Array.from({ length: block.cells }, (_, cell) => paintOf(block, cell));
    return { canvas, block, paints, layout: undefined, cell: 0 };
  });

  function draw(strip) {
    const { canvas, block, paints } = strip;
    const width = canvas.parentElement.clientWidth;
    const layout = layOut(block, width);
    const { gutter, size, gap, columns, rows } = layout;
    strip.layout = layout;
    const ratio = window.devicePixelRatio || 1;
    const shown = { width: gutter + columns * size, height: Math.max(rows * size, gutter ? 14 : 0) };
    canvas.width = Math.round(shown.width * ratio);
    canvas.height = Math.round(shown.height * ratio);
    canvas.style.width = shown.width + "px";
    canvas.style.height = shown.height + "px";
    const colours = getComputedStyle(document.documentElement);
    const colourOf = new Map(map.kinds.map(({ id }) => [id, colours.getPropertyValue("--" + id)]));
    const context = canvas.getContext("2d");
    // Edges lie on whole pixels of the screen, so that no seams show between neighbours.
    const edge = (value) => Math.round(value * ratio);
    const fill = (colour, opacity, cell) => {
      const x = gutter + (cell % columns) * size;
      const y = Math.floor(cell / columns) * size;
      context.globalAlpha = opacity;
      context.fillStyle = colour;
      context.fillRect(edge(x), edge(y), edge(x + size - gap) - edge(x), edge(y + size - gap) - edge(y));
    };
    const ground = colourOf.get(map.kinds[0].id);
    for (let cell = 0; cell < block.cells; cell++) {
      const { id, opacity } = paints[cell];
      if (opacity < 1) fill(ground, 1, cell);
      fill(colourOf.get(id), opacity, cell);
    }
    context.globalAlpha = 1;
    if (gutter === 0) return;
    context.scale(ratio, ratio);
    context.fillStyle = colours.getPropertyValue("--quiet");
    context.font = '11px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
    context.textBaseline = "top";
    const step = Math.max(1, Math.ceil(32 / size));
    for (let row = 0; row < rows; row += step) {
      context.fillText(hex(row * columns * map.cellPages * block.pageSize), 0, row * size);
    }
  }

  function drawAll() {
    hide();
    strips.forEach(draw);
  }

  function line(className, text, kind) {
    const element = document.createElement("div");
    element.className = className;
    if (kind) {
      const swatch = document.createElement("i");
      swatch.className = "swatch k-" + kind;
      element.append(swatch);
    }
    element.append(text);
    return element;
  }

  function show(strip, cell) {
    const { block, canvas, layout } = strip;
    strip.cell = cell;
    const first = cell * map.cellPages * block.pageSize;
    const last = first + pagesOf(block, cell) * block.pageSize - 1;
    const lines = [line("block", block.name), line("range", hex(first) + " to " + hex(last))];
    if (block.guestAddress !== undefined) {
      const guest = BigInt(block.guestAddress);
      lines.push(line("range", "guest " + hex(guest + BigInt(first)) + " to " + hex(guest + BigInt(last))));
    }
    for (const { id, label, pages } of kindsOf(block, cell)) {
      lines.push(line("kind", map.cellPages === 1 ? label : label + ": " + number(pages) + (pages === 1 ? " page" : " pages"), id));
    }
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const box = canvas.getBoundingClientRect();
    const left = box.left + layout.gutter + (cell % layout.columns) * layout.size;
    const top = box.top + Math.floor(cell / layout.columns) * layout.size;
    const side = layout.size - layout.gap;
    cursor.hidden = false;
    cursor.style.left = left + scrollX + "px";
    cursor.style.top = top + scrollY + "px";
    cursor.style.width = cursor.style.height = side + "px";
    const { width, height } = tip.getBoundingClientRect();
    const page = document.documentElement;
    const x = left + side + 14 + width > page.clientWidth ? left - width - 14 : left + side + 14;
    tip.style.left = Math.max(8, x) + "px";
    tip.style.top = Math.max(8, Math.min(top + 14, page.clientHeight - height - 8)) + "px";
  }

  function hide() {
    tip.hidden = true;
    cursor.hidden = true;
  }

  for (const strip of strips) {
    const { canvas, block } = strip;
    const point = (event) => {
      const { gutter, size, columns } = strip.layout;
      const box = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left - gutter) / size);
      const cell = Math.floor((event.clientY - box.top) / size) * columns + column;
      if (column >= 0 && column < columns && cell >= 0 && cell < block.cells) show(strip, cell);
      else hide();
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", hide);
    canvas.addEventListener("blur", hide);
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const { columns } = strip.layout;
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -block.cells, End: block.cells };
      const step = steps[event.key];
      if (step === undefined) return;
      event.preventDefault();
      show(strip, tip.hidden ? strip.cell : Math.min(block.cells - 1, Math.max(0, strip.cell + step)));
    });
  }

  let width = 0;
  addEventListener("resize", () => {
    if (width === document.documentElement.clientWidth) return;
    width = document.documentElement.clientWidth;
    drawAll();
  });
  addEventListener("scroll", hide, { passive: true });
  dark.addEventListener("change", drawAll);
  drawAll();
})();
`;
