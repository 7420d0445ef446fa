import { describe, expect, test } from "vitest";

import { bar, comparison, duration, mebibytes, type Output, Screen } from "../../demo/screen.js";

class Paper implements Output {
  text = "";
  readonly isTTY: boolean;

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.text += text;
  }
}

describe("Screen", () => {
  test("a line wipes the progress that stands there", () => {
    const paper = new Paper(true);
    const screen = new Screen(paper);
    screen.progress("working".repeat(20));
    screen.line("done");
    screen.line();
    expect(paper.text).toBe(`\r\u001b[2K${"working".repeat(20).slice(0, 79)}\r\u001b[2Kdone\n\n`);
  });

  test("without a terminal there is no progress", () => {
    const paper = new Paper(false);
    const screen = new Screen(paper);
    screen.progress("working");
    screen.line("done");
    expect(paper.text).toBe("done\n");
  });
});

test("sizes, times and bars", () => {
  expect([mebibytes(1.5 * 2 ** 20), duration(0.2), duration(999.4), duration(1500)]).toEqual([
    "1.5 MiB",
    "1 ms",
    "999 ms",
    "1.5 s",
  ]);
  expect([bar(10, 10), bar(5, 10), bar(0, 10)].map(({ length }) => length)).toEqual([23, 12, 1]);
});

test("a comparison fits a line even with large numbers", () => {
  const lines = comparison(99_999 * 2 ** 20, 68 * 2 ** 20, 41 * 2 ** 20);
  expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(80);
  expect(lines[0]).toMatch(/99999\.0 MiB #{23}$/);
});
