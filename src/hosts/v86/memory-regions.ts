import type { HostRamBlock } from "../../engine/host.js";
import { assert, MachineError } from "../../errors/index.js";
import type { MemoryRegion } from "../userfaultfd/registered-memory.js";
import { uffdCalls } from "../userfaultfd/system.js";
import type { V86Cpu } from "./internals.js";
import { isReserved } from "./shared-memory.js";

/**
 * Where a v86's blocks are in this process; undefined for memory that is a file's. They stay there as long as the emulator
 * lives: {@link isReserved} says why.
 *
 * @throws MachineError `not-capable` where memory may move, or does not begin with a whole page.
 */
export function memoryRegions(
  cpu: V86Cpu,
  blocks: readonly HostRamBlock[],
): readonly (MemoryRegion | undefined)[] {
  const calls = uffdCalls();
  const { buffer } = cpu.wasm_memory;
  if (!isReserved(calls.addressOf(new Uint8Array(buffer)), buffer.byteLength)) {
    throw new MachineError(
      "not-capable",
      "Pages of this guest cannot be missing: its memory may move when it grows",
      {
        hint: "lift the limit on address space (ulimit -v)",
      },
    );
  }
  const pageSize = calls.getpagesize();
  return blocks.map(({ name, segments: [segment], shared, usedLength }) => {
    if (shared === true) return undefined;
    assert(segment?.length === usedLength, `${name} is one piece`);
    const address = calls.addressOf(segment);
    if (address % pageSize === 0 && usedLength % pageSize === 0) return { address, length: usedLength };
    throw new MachineError("not-capable", "Memory of this guest is not made of whole pages of the system", {
      block: name,
      expected: `pages of ${pageSize} bytes`,
    });
  });
}
