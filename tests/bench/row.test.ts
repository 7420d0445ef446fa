import { describe, expect, it } from "vitest";

import { measureRounds, type Row, selectRows } from "../../bench/row.js";

/** A row that notes when it is measured. */
function row(name: string, log: string[], more: Partial<Row<string>> = {}): Row<string> {
  return {
    name,
    measure: (setting) => {
      log.push(`${setting}:${name}`);
      return Promise.resolve({ moveMs: log.length, syncMs: 0, wholeMs: 0, bytes: 1 });
    },
    ...more,
  };
}

describe("measureRounds", () => {
  it("lets rows take turns, does not count the first round, and has fewer of slow ones", async () => {
    const log: string[] = [];
    const rows = [row("a", log), row("b", log, { isSlow: true })];
    const samples = await measureRounds("x", rows, 3, "test");
    expect(log).toEqual(["x:a", "x:a", "x:b", "x:a", "x:b", "x:a"]);
    const times = (name: string): unknown =>
      (samples.get(name) as readonly { readonly moveMs: number }[]).map(({ moveMs }) => moveMs);
    expect(times("a")).toEqual([2, 4, 6]);
    expect(times("b")).toEqual([3, 5]);
  });

  it("keeps the reason of a row that cannot be measured, and does not ask it again", async () => {
    const log: string[] = [];
    const refused = row("a", log, {
      measure: () => {
        log.push("refused");
        return Promise.resolve("not here");
      },
    });
    const samples = await measureRounds("x", [refused, row("b", log)], 2, "test");
    expect(samples.get("a")).toBe("not here");
    expect(log.filter((entry) => entry === "refused")).toHaveLength(1);
  });
});

describe("selectRows", () => {
  const rows = [
    row("base", []),
    row("other", []),
    row("ours", [], { baseline: "base", comparisons: [{ of: "third", label: "third" }] }),
    row("third", []),
  ];

  it("takes what a row is compared with along", () => {
    expect(selectRows("part", rows, "part: ours").map(({ name }) => name)).toEqual(["base", "ours", "third"]);
  });

  it("takes all rows when nothing is named", () => {
    expect(selectRows("part", rows, undefined)).toHaveLength(4);
  });
});
