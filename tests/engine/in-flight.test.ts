import { describe, expect, it } from "vitest";

import { InFlight } from "../../src/engine/in-flight.js";

/** An operation that ends when the test says so. */
function operation(): { readonly run: () => Promise<void>; end: () => void; fail: (error: Error) => void } {
  let end = (): void => undefined;
  let fail: (error: Error) => void = () => undefined;
  const promise = new Promise<void>((resolve, reject) => {
    end = resolve;
    fail = reject;
  });
  return { run: () => promise, end, fail };
}

describe("InFlight", () => {
  it("starts no more than so many at a time", async () => {
    const flight = new InFlight(2);
    const [first, second, third] = [operation(), operation(), operation()];
    await flight.start(first.run);
    await flight.start(second.run);
    let started = false;
    const starting = flight.start(third.run).then(() => (started = true));
    await Promise.resolve();
    expect(started).toBe(false);
    expect(flight.count).toBe(2);
    second.end();
    await starting;
    expect(flight.count).toBe(2);
    first.end();
    third.end();
    await flight.drain();
    expect(flight.count).toBe(0);
  });

  it("starts nothing after a failure, and reports the first one", async () => {
    const flight = new InFlight(2);
    const [first, second] = [operation(), operation()];
    await flight.start(first.run);
    await flight.start(second.run);
    first.fail(new Error("no space"));
    await expect(flight.start(() => Promise.reject(new Error("started all the same")))).rejects.toThrow(
      "no space",
    );
    second.fail(new Error("later"));
    await expect(flight.drain()).rejects.toThrow("no space");
  });
});
