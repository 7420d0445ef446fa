import { expect, test } from "vitest";

import { ExitCode, exitCodeOf } from "../../src/cli/exit-codes.js";
import { CancelledError, FormatError, MachineError, UsageError } from "../../src/errors/index.js";

test("the numbers are a contract", () => {
  expect(ExitCode).toEqual({ fine: 0, badInput: 1, usage: 2, machine: 3, cancelled: 130 });
});

test.each([
  [new FormatError("truncated", "x"), 1],
  [new UsageError("x"), 2],
  [new MachineError("io", "x"), 3],
  [new CancelledError(), 130],
  [new Error("a bug"), 3],
  ["no error at all", 3],
])("%s", (error, code) => {
  expect(exitCodeOf(error)).toBe(code);
});
