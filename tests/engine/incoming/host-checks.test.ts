import { describe, expect, test } from "vitest";

import type { HostRamBlock } from "../../../src/engine/host.js";
import { checkConfiguration, checkPageSize, matchBlocks } from "../../../src/engine/incoming/host-checks.js";
import { FormatError } from "../../../src/errors/index.js";
import { FakeHost } from "../fake-host.js";

const NO_RULES = { ignoreShared: false };
const UUID = Uint8Array.from({ length: 16 }, (_, index) => index);

/** A host with a UUID, unless it is to have none. */
function hostWith(uuid: Uint8Array | undefined): FakeHost {
  return Object.assign(new FakeHost(), uuid === undefined ? {} : { uuid });
}

describe("checkConfiguration", () => {
  test.each([
    ["none", undefined],
    ["another machine", { machine: "other", capabilities: [] }],
    ["x-ignore-shared, which is off here", { machine: "fake", capabilities: ["x-ignore-shared"] }],
    ["another page size", { machine: "fake", capabilities: [], targetPageBits: 13 }],
  ])("refuses %s", (_name, configuration) => {
    expect(() => checkConfiguration(new FakeHost(), configuration, NO_RULES)).toThrow(FormatError);
  });

  test("refuses a stream without x-ignore-shared when it is on here", () => {
    const rules = { ignoreShared: true };
    const configuration = { machine: "fake", capabilities: [] };
    expect(() => checkConfiguration(new FakeHost(), configuration, rules)).toThrow(
      /x-ignore-shared.*expected on/,
    );
    checkConfiguration(new FakeHost(), { machine: "fake", capabilities: ["x-ignore-shared"] }, rules);
  });

  test("the same page size, capabilities that mean nothing here", () => {
    const configuration = { machine: "fake", capabilities: ["mapped-ram"], targetPageBits: 12 };
    checkConfiguration(new FakeHost(), configuration, NO_RULES);
  });

  test.each([
    ["the same", UUID, UUID.slice(), true],
    ["another", UUID, UUID.map((byte) => byte ^ 1), false],
    ["one that differs in its last byte", UUID, UUID.with(15, 0), false],
    ["none here", undefined, UUID, true],
    ["none in the stream", UUID, undefined, true],
  ])("the UUID: %s", (_name, own, received, fits) => {
    const configuration = {
      machine: "fake",
      capabilities: [],
      ...(received === undefined ? {} : { uuid: received }),
    };
    const check = (): void => checkConfiguration(hostWith(own), configuration, NO_RULES);
    if (fits) check();
    else expect(check).toThrow(/another UUID.*expected 00010203-/);
  });
});

test("checkPageSize", () => {
  checkPageSize(new FakeHost(), 4096);
  expect(() => checkPageSize(new FakeHost(), 8192, "pc.ram")).toThrow(/pc\.ram.*expected 4096, found 8192/);
});

describe("matchBlocks", () => {
  const RAM = { name: "pc.ram", usedLength: 2 << 20 };
  const VIDEO = { name: "vga.vram", usedLength: 16 * 4096 };

  test("finds each block's place, whatever the order", () => {
    expect(matchBlocks(new FakeHost(), [VIDEO, RAM], NO_RULES)).toEqual([
      { index: 1, travels: true },
      { index: 0, travels: true },
    ]);
  });

  test.each([
    ["a block that is missing", [RAM], /lacks a RAM block.*vga\.vram/],
    ["one too many", [RAM, VIDEO, { name: "more", usedLength: 4096 }], /no such RAM block.*more/],
    ["another length", [RAM, { ...VIDEO, usedLength: 4096 }], /another length.*vga\.vram/],
  ])("refuses %s", (_name, blocks, message) => {
    expect(() => matchBlocks(new FakeHost(), blocks, NO_RULES)).toThrow(message);
  });

  function sharedHost(guestAddress?: bigint): FakeHost {
    const host = new FakeHost();
    const blocks: readonly HostRamBlock[] = host
      .ramBlocks()
      .map((block, index) =>
        index === 0
          ? { ...block, shared: true, ...(guestAddress === undefined ? {} : { guestAddress }) }
          : block,
      );
    host.ramBlocks = () => blocks;
    return host;
  }

  test("shared blocks travel unless both sides leave them out", () => {
    const travels = (ignoreShared: boolean): boolean[] =>
      matchBlocks(sharedHost(), [RAM, VIDEO], { ignoreShared }).map((match) => match.travels);
    expect(travels(false)).toEqual([true, true]);
    expect(travels(true)).toEqual([false, true]);
  });

  test("a shared block has to be at the same guest address", () => {
    const match = (own: bigint | undefined, received: bigint) => (): unknown =>
      matchBlocks(sharedHost(own), [{ ...RAM, guestAddress: received }, VIDEO], { ignoreShared: true });
    match(undefined, 0n)();
    match(0x1000n, 0x1000n)();
    expect(match(0x1000n, 0x2000n)).toThrow(/another guest address.*expected 4096, found 8192/);
    expect(match(undefined, 1n)).toThrow(/another guest address/);
  });
});
