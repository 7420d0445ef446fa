import { expect, onTestFinished, test } from "vitest";

import { AlignedSlots } from "../../../src/channels/aligned-slots.js";
import { MachineError } from "../../../src/errors/index.js";
import { RegisteredMemory } from "../../../src/hosts/userfaultfd/registered-memory.js";
import { uffdCalls } from "../../../src/hosts/userfaultfd/system.js";
import { Userfaultfd } from "../../../src/hosts/userfaultfd/userfaultfd.js";
import { describeWithUserfaultfd } from "../../support/describe-with-userfaultfd.js";

const PAGE = 4096;

function open(): Userfaultfd {
  const uffd = Userfaultfd.open();
  onTestFinished(() => uffd.close());
  return uffd;
}

function region(memory: Uint8Array): { readonly address: number; readonly length: number } {
  return { address: uffdCalls().addressOf(memory), length: memory.length };
}

describeWithUserfaultfd("userfaultfd", () => {
  test("puts runs of pages in place, and none where there is one", () => {
    const uffd = open();
    const memory = new AlignedSlots().take();
    const { address, length } = region(memory);
    uffd.register(address, length);
    const content = new Uint8Array(4 * PAGE).map((_, index) => index);
    const from = uffdCalls().addressOf(content);
    expect(uffd.copy(address + PAGE, from, 3 * PAGE)).toBe("placed");
    expect(uffd.zero(address + 4 * PAGE, 2 * PAGE)).toBe("placed");
    expect(uffd.copy(address, from, 2 * PAGE)).toBe("exists");
    expect(uffd.zero(address + 5 * PAGE, 2 * PAGE)).toBe("exists");
    expect(Buffer.compare(memory.subarray(PAGE, 4 * PAGE), content.subarray(0, 3 * PAGE))).toBe(0);
    expect(memory.subarray(4 * PAGE, 6 * PAGE).every((byte) => byte === 0)).toBe(true);
    // The page in front of the one that was there is in place.
    expect(Buffer.compare(memory.subarray(0, PAGE), content.subarray(0, PAGE))).toBe(0);
    uffd.unregister(address, length);
    expect(memory[100 * PAGE]).toBe(0);
  });

  test("refuses memory that is not made of whole pages", () => {
    const uffd = open();
    const { address } = region(new AlignedSlots().take());
    expect(() => uffd.register(address + 8, PAGE)).toThrow(MachineError);
  });

  test("has no page again that was received before and dropped", () => {
    const uffd = open();
    const memory = new AlignedSlots().take().fill(0x77);
    const registered = new RegisteredMemory(uffd, uffdCalls(), [region(memory)]);
    const received = new Uint8Array(memory.length / PAGE / 8).fill(0xff);
    received[0] = 0b1111_1101;
    const block = { name: "a", index: 0, usedLength: memory.length, hostPageSize: PAGE, received };
    registered.begin([block], () => undefined);
    expect(memory[0]).toBe(0x77);
    expect(() => registered.placeZero(0, 0, PAGE)).toThrow(/is there already/);
    registered.placeZero(0, PAGE, PAGE);
    expect(memory[PAGE]).toBe(0);
    registered.end();
    expect(memory[2 * PAGE]).toBe(0x77);
  });

  test("refuses pages of another size than the system's, and memory that others have, too", () => {
    const uffd = open();
    const memory = new AlignedSlots().take();
    const block = { name: "a", index: 0, usedLength: memory.length, hostPageSize: 2 * PAGE };
    const received = new Uint8Array(16);
    const one = new RegisteredMemory(uffd, uffdCalls(), [region(memory)]);
    expect(() => one.begin([{ ...block, received }], () => undefined)).toThrow(/one by one/);
    const shared = new RegisteredMemory(uffd, uffdCalls(), [undefined]);
    expect(() => shared.begin([{ ...block, received }], () => undefined)).toThrow(/shared memory/);
    shared.begin([{ ...block, received: undefined }], () => undefined);
  });
});
