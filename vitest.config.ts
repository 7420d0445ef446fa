import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["tests/**/*.test.ts"],
          exclude: ["tests/conformance/**", "tests/scenarios/**"],
          testTimeout: 30_000,
        },
      },
      {
        test: {
          name: "conformance",
          include: ["tests/conformance/**/*.test.ts", "tests/scenarios/**/*.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 120_000,
          // Each test runs one or two QEMUs: more than one file at a time only makes every one of them slow.
          fileParallelism: false,
        },
      },
    ],
  },
});
