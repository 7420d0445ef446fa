import { execFileSync, type StdioOptions } from "node:child_process";

import { expect, test } from "vitest";

/** Runs TypeScript that prints something in a Node with these options. */
function run(options: readonly string[], code: string): string {
  const args = [...options, "--import", "tsx", "--input-type=module", "--eval", code];
  // Some Nodes warn of what --jitless turns off.
  const stdio: StdioOptions = ["ignore", "pipe", "ignore"];
  return execFileSync(process.execPath, args, { encoding: "utf8", cwd: import.meta.dirname, stdio });
}

const WHICH = `
  const { createPageHasher } = await import("../../src/kernels/index.ts");
  const hasher = createPageHasher(4096);
  hasher.hash(new Uint8Array(8192).fill(1));
  const [a, b, c, d, e] = hasher.hashes;
  process.stdout.write(hasher.constructor.name + " " + (a === e && a !== b));
`;

const OTHERS = `
  const { createPageScanner } = await import("../../src/kernels/index.ts");
  const { createXbzrlePages } = await import("../../src/engine/outgoing/xbzrle-pages.ts");
  const scanner = createPageScanner({ pageSize: 4096, areaPages: 4 });
  scanner.areas[0].fill(1, 4096, 4097);
  const pages = createXbzrlePages(4096, 4);
  const delta = pages.update(2, scanner.areas[0], 4096);
  const found = [scanner.findContent(0, 4)[0], delta, ...pages.delta.subarray(0, delta)];
  process.stdout.write([scanner.constructor.name, pages.constructor.name, ...found].join(" "));
`;

test("pages are hashed by the kernel", () => {
  expect(run([], WHICH)).toContain("PageHashKernel true");
});

test("pages are scanned and encoded by kernels", () => {
  expect(run([], OTHERS)).toBe("PageScanKernel FastXbzrlePages 2 3 0 1 1");
});

test("a program that must not make machine code has no WebAssembly, and still gets its pages hashed", () => {
  expect(run(["--jitless"], WHICH)).toContain("PageHashTwin true");
  expect(run(["--jitless"], OTHERS)).toBe("PageScanTwin PlainXbzrlePages 2 3 0 1 1");
});

test("so does one where nothing may be compiled", () => {
  const forbid = "WebAssembly.Module = class { constructor() { throw new WebAssembly.CompileError(); } };";
  expect(run([], `${forbid}\n${WHICH}`)).toContain("PageHashTwin true");
});
