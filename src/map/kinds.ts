/** How loud a kind of page is in a picture: a cell takes the colour of the loudest that is in it. */
export type Loudness = 0 | 1 | 2;

/** A kind of page, as a map shows it. */
export interface MapKind {
  /** In JSON, and in the names of styles. */
  readonly id: string;
  readonly label: string;
  /** What pages of it are, in a few words. */
  readonly meaning: string;
  readonly loudness: Loudness;
  /** Colours on light and on dark ground, `#rrggbb`; each stands out from the ground by 3 to 1, but for what is quiet. */
  readonly light: string;
  readonly dark: string;
}

const ZERO = { id: "zero", label: "Zero", loudness: 0, light: "#e8ebf0", dark: "#232936" } as const;

/** Kinds of pages in one snapshot. A page is of exactly one of them. */
export const MEMORY_KINDS = [
  { ...ZERO, meaning: "not one byte is set" },
  {
    id: "sparse",
    label: "Sparse",
    meaning: "at most 1 byte in 16 is set",
    loudness: 2,
    light: "#6f97c9",
    dark: "#8fb4e6",
  },
  {
    id: "text",
    label: "Text",
    meaning: "mostly printable characters",
    loudness: 2,
    light: "#1b8a5f",
    dark: "#3ecf97",
  },
  {
    id: "data",
    label: "Data",
    meaning: "code, tables, structures",
    loudness: 2,
    light: "#274b9f",
    dark: "#5b82f0",
  },
  {
    id: "dense",
    label: "Dense",
    meaning: "compressed or random bytes",
    loudness: 2,
    light: "#d4500c",
    dark: "#ff8745",
  },
  {
    id: "repeated",
    label: "Repeated",
    meaning: "equals another page*",
    loudness: 2,
    light: "#b3388f",
    dark: "#e879c6",
  },
] as const satisfies readonly MapKind[];

/** Kinds of pages between two snapshots. */
export const DIFFERENCE_KINDS = [
  { ...ZERO, meaning: "zero in both" },
  {
    id: "equal",
    label: "Equal",
    meaning: "of the same content",
    loudness: 1,
    light: "#b4bcc9",
    dark: "#4a5367",
  },
  {
    id: "changed",
    label: "Changed",
    meaning: "other content in B",
    loudness: 2,
    light: "#d4500c",
    dark: "#ff8745",
  },
  {
    id: "became-zero",
    label: "Became zero",
    meaning: "content in A, zero in B",
    loudness: 2,
    light: "#274b9f",
    dark: "#5b82f0",
  },
  {
    id: "appeared",
    label: "Appeared",
    meaning: "zero in A, content in B",
    loudness: 2,
    light: "#1b8a5f",
    dark: "#3ecf97",
  },
  {
    id: "only-in-a",
    label: "Only in A",
    meaning: "B has no such page",
    loudness: 2,
    light: "#8a6d00",
    dark: "#d8b53a",
  },
  {
    id: "only-in-b",
    label: "Only in B",
    meaning: "A has no such page",
    loudness: 2,
    light: "#b3388f",
    dark: "#e879c6",
  },
] as const satisfies readonly MapKind[];

/** Kinds of pages in a snapshot with a working set: those that a lazily restored guest asked for, in three thirds. */
export const WORKING_SET_KINDS = [
  { ...ZERO, meaning: "no content, not asked for" },
  {
    id: "not-asked",
    label: "Not asked for",
    meaning: "has content",
    loudness: 1,
    light: "#b4bcc9",
    dark: "#4a5367",
  },
  {
    id: "asked-first",
    label: "Asked for first",
    meaning: "the first third",
    loudness: 2,
    light: "#d4500c",
    dark: "#ff8745",
  },
  {
    id: "asked-next",
    label: "Asked for next",
    meaning: "the second third",
    loudness: 2,
    light: "#8a6d00",
    dark: "#d8b53a",
  },
  {
    id: "asked-last",
    label: "Asked for last",
    meaning: "the last third",
    loudness: 2,
    light: "#1b8a5f",
    dark: "#3ecf97",
  },
] as const satisfies readonly MapKind[];

/** A kind of page of {@link MEMORY_KINDS}, {@link DIFFERENCE_KINDS} or {@link WORKING_SET_KINDS}. */
export type MapKindId = (
  (typeof MEMORY_KINDS)[number] | (typeof DIFFERENCE_KINDS)[number] | (typeof WORKING_SET_KINDS)[number]
)["id"];

/** Steps of shading: how opaque a cell's colour is over that of zero pages. */
export const SHADES = [0.4, 0.6, 0.8, 1] as const;
