import { defineConfig } from "vitest/config";

/** `expect.poll` gives up after this: most of what is waited for is a process that starts, on a machine that is busy. */
const poll = { timeout: 20_000, interval: 20 };

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["tests/**/*.test.ts"],
          exclude: ["tests/conformance/**", "tests/scenarios/**"],
          testTimeout: 30_000,
          expect: { poll },
        },
      },
      {
        test: {
          name: "conformance",
          include: ["tests/conformance/**/*.test.ts", "tests/scenarios/**/*.test.ts"],
          exclude: ["tests/conformance/matrix/**"],
          testTimeout: 180_000,
          hookTimeout: 120_000,
          expect: { poll },
          // Each test runs one or two QEMUs: more than one file at a time only makes every one of them slow.
          fileParallelism: false,
        },
      },
      {
        test: {
          name: "matrix",
          include: ["tests/conformance/matrix/**/*.test.ts"],
          hookTimeout: 120_000,
          expect: { poll },
          // Hundreds of small migrations, in which one side often waits for the other: two files keep two cores busy. A
          // group of its own: it runs after the other projects, not beside them.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
