import type { FormatError, FormatErrorCode } from "../errors/index.js";

/** What kind of thing a {@link VerifyProblem} is: a code of FormatError, or one of verify's own. */
export type VerifyProblemCode =
  | FormatErrorCode
  /** Two areas of the file that must be apart share bytes. */
  | "overlap"
  /** A bitmap has bits set past its last page. */
  | "tail-bits"
  /** Two sections have the same name and instance, or the same id. */
  | "duplicate-section"
  /** Places of zero pages hold old bytes. Harmless for a loader; QEMU's own live files have them. */
  | "stale-pages"
  /** Pages are marked as having content and the file has a hole there. */
  | "hole-pages"
  /** No page of the guest has content: what a file looks like whose writer died. */
  | "all-bitmaps-empty"
  /** There is no vmstate description: nothing says how long the device sections are. */
  | "no-description"
  /** Bytes follow the end of the snapshot. */
  | "trailing-bytes";

/** Something that verify found. */
export interface VerifyProblem {
  /** An `error` breaks the format; a `warning` is strange, and the file may still load as it was meant. */
  readonly severity: "error" | "warning";
  readonly code: VerifyProblemCode;
  /** One sentence with its place; safe to print. */
  readonly message: string;
  /** Byte offset in the file. */
  readonly offset?: number;
  readonly section?: string;
  readonly block?: string;
  readonly expected?: string | number;
  readonly actual?: string | number;
}

const MOST_PROBLEMS = 256;

/** Gathers problems, and counts those beyond the first few hundred. */
export class ProblemList {
  readonly problems: VerifyProblem[] = [];
  omitted = 0;
  errors = 0;

  /** Takes an error; its own code is the problem's unless another is given. */
  add(
    error: FormatError,
    code: VerifyProblemCode = error.code,
    severity: VerifyProblem["severity"] = "error",
  ): void {
    if (severity === "error") this.errors += 1;
    if (this.problems.length >= MOST_PROBLEMS) {
      this.omitted += 1;
      return;
    }
    const { offset, section, block, expected, actual } = error.data;
    this.problems.push({
      severity,
      code,
      message: error.message,
      ...(offset === undefined ? {} : { offset }),
      ...(section === undefined ? {} : { section }),
      ...(block === undefined ? {} : { block }),
      ...(expected === undefined ? {} : { expected: jsonValue(expected) }),
      ...(actual === undefined ? {} : { actual: jsonValue(actual) }),
    });
  }

  /** Takes something strange. */
  warn(error: FormatError, code: VerifyProblemCode): void {
    this.add(error, code, "warning");
  }
}

/** JSON has no bigint. */
function jsonValue(value: string | number | bigint): string | number {
  return typeof value === "bigint" ? `0x${value.toString(16)}` : value;
}
