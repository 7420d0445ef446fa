import { once } from "node:events";
import process from "node:process";

import { parseFileWithOffset } from "../../channels/uri.js";
import { printable } from "../../errors/index.js";
import type { FieldDifference } from "../../snapshot/diff-devices.js";
import {
  assertComparable,
  type DiffEvent,
  type DiffRange,
  diffSnapshots,
  type DiffSummary,
} from "../../snapshot/diff.js";
import { openSnapshot } from "../../snapshot/open.js";
import type { Snapshot } from "../../snapshot/snapshot.js";
import { type CommandContext, type CommonOptions, withContext } from "../context.js";
import { table } from "../table.js";

/** Ranges of a block, and fields of devices, that people are shown. */
const SHOWN_RANGES = 12;
const SHOWN_FIELDS = 60;
/** Pieces of JSON are gathered to so many characters before they are written. */
const WRITE_CHARACTERS = 1 << 16;

/** `ramport diff`; says whether the two are the same. */
export async function diff(a: string, b: string, options: CommonOptions): Promise<boolean> {
  return withContext(options, (context) =>
    withSnapshots([a, b], context, async ([before, after]) => {
      assertComparable(before, after);
      const events = diffSnapshots(before, after, context);
      return options.json === true ? writeJson(events, [before, after]) : writeLines(events, `${a} and ${b}`);
    }),
  );
}

/** Opens both, and closes what was opened however it ends. */
export async function withSnapshots<T>(
  files: readonly [string, string],
  { signal, onProgress }: CommandContext,
  work: (snapshots: readonly [Snapshot, Snapshot]) => Promise<T>,
): Promise<T> {
  const open = (file: string): Promise<Snapshot> => {
    const { path, offset } = parseFileWithOffset(file);
    return openSnapshot(path, { offset, signal, onProgress });
  };
  const first = await open(files[0]);
  try {
    const second = await open(files[1]);
    try {
      return await work([first, second]);
    } finally {
      second.close();
    }
  } finally {
    first.close();
  }
}

/** Writes one JSON document as the comparison goes on: a guest can have millions of ranges. */
async function writeJson(
  events: AsyncIterable<DiffEvent>,
  snapshots: readonly [Snapshot, Snapshot],
): Promise<boolean> {
  const [a, b] = snapshots.map(({ container, format, configuration, targetPageSize, totalBytes }) => ({
    container,
    format,
    machine: configuration.machine,
    targetPageSize,
    totalBytes,
  }));
  let text = `{"a":${JSON.stringify(a)},\n"b":${JSON.stringify(b)},\n"blocks":[`;
  let same = false;
  const writer = new DiffJsonWriter();
  for await (const event of events) {
    text += writer.add(event);
    if (event.kind === "summary") same = event.summary.same;
    if (text.length < WRITE_CHARACTERS) continue;
    await writeOut(text);
    text = "";
  }
  await writeOut(text);
  return same;
}

/** Whoever reads may be slower than the comparison. */
async function writeOut(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, "drain");
}

/** Turns events into the pieces of one JSON document. */
class DiffJsonWriter {
  readonly #blocksOnlyInOne: unknown[] = [];
  readonly #blocksLeftOut: unknown[] = [];
  readonly #devicesOnlyInOne: unknown[] = [];
  readonly #devicesNotCompared: unknown[] = [];
  #comma = "";
  #inFields = false;

  add(event: DiffEvent): string {
    switch (event.kind) {
      case "block": {
        const text = `${this.#comma}\n${JSON.stringify(event.block).slice(0, -1)},"ranges":[`;
        this.#comma = "";
        return text;
      }
      case "ranges":
        return event.ranges.map((range) => this.#item(range)).join("");
      case "block-end":
        this.#comma = ",";
        return `],"pages":${JSON.stringify(event.pages)}}`;
      case "block-only":
        this.#blocksOnlyInOne.push(event.block);
        return "";
      case "block-left-out":
        this.#blocksLeftOut.push(event.block);
        return "";
      case "device-only":
        this.#devicesOnlyInOne.push(event.device);
        return "";
      case "device-skipped":
        this.#devicesNotCompared.push(event.device);
        return "";
      case "field":
        return this.#startFields() + this.#item(event.field);
      case "summary":
        return this.#startFields() + this.#end(event.summary);
    }
  }

  #startFields(): string {
    if (this.#inFields) return "";
    this.#inFields = true;
    this.#comma = "";
    return `],\n"fields":[`;
  }

  #item(value: object): string {
    const text = `${this.#comma}\n${JSON.stringify(value)}`;
    this.#comma = ",";
    return text;
  }

  #end(summary: DiffSummary): string {
    const rest = {
      devicesOnlyInOne: this.#devicesOnlyInOne,
      devicesNotCompared: this.#devicesNotCompared,
      blocksOnlyInOne: this.#blocksOnlyInOne,
      blocksLeftOut: this.#blocksLeftOut,
      summary,
    };
    return `],\n${JSON.stringify(rest).slice(1)}\n`;
  }
}

async function writeLines(events: AsyncIterable<DiffEvent>, names: string): Promise<boolean> {
  const memory: (string | number)[][] = [];
  const lines = { ranges: [] as string[], others: [] as string[], fields: [] as string[] };
  let ranges: DiffRange[] = [];
  let different = 0;
  let block = { name: "", pageSize: 0, pagesInA: 0, pagesInB: 0 };
  let summary: DiffSummary | undefined;
  for await (const event of events) {
    switch (event.kind) {
      case "block":
        [block, ranges, different] = [event.block, [], 0];
        break;
      case "ranges":
        for (const range of event.ranges) {
          if (range.change === "equal") continue;
          different += 1;
          if (ranges.length < SHOWN_RANGES) ranges.push(range);
        }
        break;
      case "block-end": {
        const { equal, changed, becameZero, appeared, onlyInA, onlyInB } = event.pages;
        memory.push([block.name, equal, changed, becameZero, appeared, onlyInA, onlyInB]);
        if (different > 0) lines.ranges.push(...describeRanges(block, ranges, different));
        break;
      }
      case "block-only":
        lines.others.push(
          `block ${printable(event.block.name)} is only in ${event.block.onlyIn.toUpperCase()}${event.block.leftOutByOther === true ? ": the other one left it out" : ""}`,
        );
        break;
      case "block-left-out":
        lines.others.push(`block ${printable(event.block.name)} was left out of both`);
        break;
      case "device-only":
        lines.others.push(`device ${nameOf(event.device)} is only in ${event.device.onlyIn.toUpperCase()}`);
        break;
      case "device-skipped":
        lines.others.push(`device ${nameOf(event.device)} comes in parts and was not compared`);
        break;
      case "field":
        if (lines.fields.length < SHOWN_FIELDS) lines.fields.push(describeField(event.field));
        break;
      case "summary":
        summary = event.summary;
        break;
    }
  }
  const header = ["pages of", "equal", "changed", "became zero", "appeared", "only in A", "only in B"];
  const fields = [...lines.fields, ...andMore((summary?.fields ?? 0) - lines.fields.length, "fields")];
  const sections = [table(header, memory), lines.ranges, lines.others, fields, [verdict(names, summary)]];
  await writeOut(
    `${sections
      .filter((section) => section.length > 0)
      .map((section) => section.join("\n"))
      .join("\n\n")}\n`,
  );
  return summary?.same === true;
}

function describeRanges(
  { name, pageSize }: { readonly name: string; readonly pageSize: number },
  ranges: readonly DiffRange[],
  count: number,
): string[] {
  const digits = ((ranges.at(-1)?.end ?? 0) * pageSize).toString(16).length;
  const address = (page: number): string => `0x${(page * pageSize).toString(16).padStart(digits, "0")}`;
  return [
    printable(name),
    ...ranges.map(({ start, end, change }) => {
      const pages = `${end - start} ${end - start === 1 ? "page" : "pages"}`;
      return `  ${address(start)} to ${address(end)}  ${change.replaceAll("-", " ").padEnd(11)}  ${pages}`;
    }),
    ...andMore(count - ranges.length, "ranges"),
  ];
}

function andMore(count: number, what: string): string[] {
  return count > 0 ? [`  ... and ${count} more ${what}; --json has all of them`] : [];
}

function describeField(field: FieldDifference): string {
  const { path, a, b, firstDifference } = field;
  const place = firstDifference === undefined ? "" : ` from byte ${firstDifference} on`;
  const show = (value: FieldDifference["a"]): string =>
    value === undefined ? "(none)" : printable(String(value), 100);
  return `${nameOf(field)} ${printable(path)}${place}: ${show(a)} -> ${show(b)}`;
}

function nameOf({ section, instance }: { readonly section: string; readonly instance: number }): string {
  return instance === 0 ? printable(section) : `${printable(section)} #${instance}`;
}

function verdict(names: string, summary: DiffSummary | undefined): string {
  if (summary === undefined || summary.same) return `${names} are the same`;
  const { changed, becameZero, appeared, onlyInA, onlyInB } = summary.pages;
  const counts: readonly (readonly [number, string])[] = [
    [changed + becameZero + appeared + onlyInA + onlyInB, "pages"],
    [summary.blocksOnlyInOne, "blocks"],
    [summary.fields, "device fields"],
    [summary.devicesOnlyInOne, "devices"],
  ];
  const parts = counts.filter(([count]) => count > 0).map(([count, what]) => `${count} ${what}`);
  return `${names} differ: ${parts.join(", ")}`;
}
