import prettyBytes from "pretty-bytes";

/** A number of bytes for people: `1.5 GiB`. */
export function bytes(count: number): string {
  return prettyBytes(count, { binary: true, maximumFractionDigits: 1 });
}

/** Bytes a second for people. */
export function rate(bytesPerSecond: number): string {
  return `${bytes(Math.round(bytesPerSecond))}/s`;
}

/** A duration for people. */
export function duration(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
