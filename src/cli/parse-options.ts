import { UsageError } from "../errors/index.js";

/** A whole number from the command line. */
export function wholeNumber(name: string, lowest: number, highest: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= lowest && value <= highest) return value;
    throw new UsageError(`${name} takes a whole number from ${lowest} to ${highest}, not "${text}"`);
  };
}

/** Seconds from the command line; fractions are fine. */
export function seconds(name: string): (text: string) => number {
  return (text) => {
    const value = text === "" ? Number.NaN : Number(text);
    if (value >= 0 && Number.isFinite(value)) return value;
    throw new UsageError(`${name} takes seconds, not "${text}"`);
  };
}

/** A number of bytes with an optional K, M, G or T (powers of 1024). */
export function byteCount(name: string): (text: string) => number {
  return (text) => {
    const groups = /^(?<value>\d+(?:\.\d+)?)(?<unit>[kmgt]?)(?:i?b)?$/i.exec(text)?.groups;
    const unit = groups?.unit?.toLowerCase() ?? "";
    const value = Math.round(Number(groups?.value) * 1024 ** ["", "k", "m", "g", "t"].indexOf(unit));
    if (Number.isSafeInteger(value)) return value;
    throw new UsageError(`${name} takes bytes such as 500M or 2G, not "${text}"`);
  };
}
