import { parseFileWithOffset } from "../../channels/uri.js";
import type { VerifyProblem } from "../../snapshot/verify-problems.js";
import { verifySnapshot } from "../../snapshot/verify.js";
import { type CommonOptions, printResult, withContext } from "../context.js";

/** `ramport verify`; says whether the file is good. */
export async function verify(file: string, options: CommonOptions): Promise<boolean> {
  const { path, offset } = parseFileWithOffset(file);
  const result = await withContext(options, ({ signal, onProgress }) =>
    verifySnapshot(path, { offset, signal, onProgress }),
  );
  const warnings = result.problems.filter(({ severity }) => severity === "warning").length;
  const errors = result.problems.length - warnings;
  const omitted = result.omittedProblems > 0 ? ` and ${result.omittedProblems} more` : "";
  const verdict = result.ok
    ? `${file} is good${warnings > 0 ? `, with ${count(warnings, "warning")}` : ""}`
    : `${file} is bad: ${count(errors, "error")}, ${count(warnings, "warning")}${omitted}`;
  printResult(options, result, [...result.problems.map(describe), verdict]);
  return result.ok;
}

function describe({ severity, message }: VerifyProblem): string {
  return `${severity}: ${message}`;
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}
