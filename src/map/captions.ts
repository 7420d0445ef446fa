import prettyBytes from "pretty-bytes";

import { printable } from "../errors/index.js";
import type { KindNumbers, MapNumbers, MappedSnapshot, MemoryMap } from "./memory-map.js";

/** Blocks that a picture shows; the numbers have all of them. */
export const DRAWN_BLOCKS = 256;

/** The texts of a map, made safe to print; they still have to be escaped for markup. */
export interface Captions {
  readonly title: string;
  /** What kind of picture this is. */
  readonly subject: string;
  readonly facts: readonly (readonly [name: string, text: string])[];
  readonly howToRead: string;
  /** What else is to be said, if anything. */
  readonly notes: readonly string[];
}

/**
 * Words what a map shows.
 *
 * @param labels What to call the snapshots: the names of their files, as a rule.
 */
export function captionsOf(map: MemoryMap, numbers: MapNumbers, labels: readonly string[]): Captions {
  const [first] = map.snapshots;
  const machine = printable(first?.machine ?? "") || "unknown machine";
  const { cellPages, targetPageSize } = map;
  const cell = cellPages === 1 ? "1 page" : `${count(cellPages)} pages`;
  const isOne = map.subject !== "difference";
  return {
    title: first?.domain === undefined ? machine : `${printable(first.domain, 60)} (${machine})`,
    subject: SUBJECTS[map.subject],
    facts: [
      ...map.snapshots.map((snapshot, index): readonly [string, string] => [
        isOne ? "File" : `File ${index === 0 ? "A" : "B"}`,
        fileFact(snapshot, labels[index] ?? ""),
      ]),
      ["Memory", `${size(first?.totalBytes ?? 0)} in ${count(map.blocks.length)} blocks`],
      ["Page", size(targetPageSize)],
      ["Cell", `${cell}, ${size(cellPages * targetPageSize)}`],
    ],
    howToRead: howToRead(map),
    notes: notes(map, numbers),
  };
}

const SUBJECTS: Readonly<Record<MemoryMap["subject"], string>> = {
  memory: "Guest memory",
  difference: "Guest memory, compared",
  "working-set": "Guest memory, and its working set",
};

/** A number for people: `12,345`. */
export function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** Bytes for people: `1.5 GiB`. */
export function size(bytes: number): string {
  return prettyBytes(bytes, { binary: true, maximumFractionDigits: 1 });
}

/** A share for people; what is there is never 0 %, and what is not whole never 100 %. */
export function share(part: number, whole: number): string {
  if (part === 0 || whole === 0) return "0 %";
  if (part === whole) return "100 %";
  const percent = (part / whole) * 100;
  if (percent < 0.1) return "< 0.1 %";
  return percent > 99.9 ? "> 99.9 %" : `${percent.toFixed(1)} %`;
}

/** Pages of all kinds. */
export function allPages(kinds: Readonly<Record<string, KindNumbers>>): number {
  return Object.values(kinds).reduce((sum, { pages }) => sum + pages, 0);
}

/** Text from a file for HTML and SVG: printable, and without what either takes for markup. */
export function escapeMarkup(text: string): string {
  return printable(text, 1000).replace(/[&<>"'\uFFFE\uFFFF]/g, (c) => `&#${ESCAPED.get(c) ?? 0xfffd};`);
}

const ESCAPED: ReadonlyMap<string, number> = new Map(
  ["&", "<", ">", '"', "'"].map((c) => [c, c.charCodeAt(0)]),
);

function fileFact({ container, format, fileBytes }: MappedSnapshot, label: string): string {
  return `${printable(label, 60)}, ${size(fileBytes)}, ${container} ${format}`;
}

function howToRead({ cellPages, subject }: MemoryMap): string {
  const what = subject === "difference" ? "differs" : "has content";
  if (cellPages === 1) return "Each cell is one page, from left to right and from top to bottom.";
  const pages = count(cellPages);
  return `Each cell is ${pages} pages, in the colour of the most frequent kind that ${what}; the paler, the fewer of them do.`;
}

function notes({ blocks, repeatedContents }: MemoryMap, numbers: MapNumbers): string[] {
  const found: string[] = [];
  const repeated = numbers.kinds.repeated?.pages ?? 0;
  if (repeatedContents === null)
    found.push("Repeated pages were not looked for: the guest has too many pages.");
  else if (repeatedContents !== undefined) {
    const contents = `${count(repeatedContents)} ${repeatedContents === 1 ? "content" : "different contents"}`;
    found.push(`* By a 64-bit hash of the pages. The ${count(repeated)} repeated pages have ${contents}.`);
  }
  if (blocks.length > DRAWN_BLOCKS) {
    found.push(`Of ${count(blocks.length)} blocks, the first ${count(DRAWN_BLOCKS)} are shown.`);
  }
  return found;
}
