import { expect, test } from "vitest";

import { HostTarget } from "../../../src/engine/incoming/host-target.js";
import { RAM_SECTION } from "../../../src/wire/index.js";
import { FakeHost } from "../fake-host.js";

const PAGE = 4096;

test("memory of which nothing came is zero, whatever it held before", () => {
  const host = new FakeHost();
  host.loadDevices = () => undefined;
  for (const segment of host.ram) segment.fill(0xee);
  host.video.fill(0xee);
  const target = new HostTarget(host, { ignoreShared: false });
  const header = { id: 2, instance: 0, ...RAM_SECTION };
  const sink = target.ramStart(header, host.ramBlocks(), PAGE);
  const page = new Uint8Array(PAGE).fill(5);
  sink.page(0, 300 * PAGE, page, 0);
  sink.page(1, 15 * PAGE, page, 0);
  target.load();
  const expected = Buffer.alloc(host.memory().length);
  expected.fill(5, 300 * PAGE, 301 * PAGE);
  expected.fill(5, (512 + 15) * PAGE);
  expect(host.memory().equals(expected)).toBe(true);
});
