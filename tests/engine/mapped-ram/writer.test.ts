import { describe, expect, test } from "vitest";

import { loadHost } from "../../../src/engine/incoming/load-host.js";
import { MappedRamWriter } from "../../../src/engine/mapped-ram/writer.js";
import { saveHost } from "../../../src/engine/outgoing/save-host.js";
import { FormatError, MachineError } from "../../../src/errors/index.js";
import { RAM_SECTION } from "../../../src/wire/index.js";
import { FakeHost, MemoryFile } from "../fake-host.js";

const PAGE = 4096;

/** Dies before one of its writes. */
class DyingFile extends MemoryFile {
  writes = 0;
  dead = false;
  readonly #dies: number;

  constructor(dies = Number.POSITIVE_INFINITY) {
    super();
    this.#dies = dies;
  }

  override writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    if (this.writes === this.#dies) throw new MachineError("io", "killed");
    this.writes += 1;
    super.writeAt(bytes, at, length, position);
  }
}

function filled(): FakeHost {
  const host = new FakeHost();
  for (let page = 0; page < 512; page += 61)
    host.ram[page >> 8]!.fill(page + 1, (page & 255) * PAGE, ((page & 255) + 1) * PAGE);
  host.video.fill(3);
  return host;
}

describe("MappedRamWriter", () => {
  test("a file whose writer died at any of its writes is not taken for a whole one", async () => {
    const whole = new DyingFile();
    await saveHost(filled(), whole);
    await loadHost(new FakeHost(), whole);
    for (let dies = 0; dies < whole.writes; dies++) {
      const file = new DyingFile(dies);
      await expect(saveHost(filled(), file)).rejects.toThrow("killed");
      await expect(loadHost(new FakeHost(), file), `write ${dies} of ${whole.writes}`).rejects.toThrow(
        FormatError,
      );
    }
  });

  test("a page that comes once the bitmaps are written fails the migration", () => {
    const writer = new MappedRamWriter(new MemoryFile());
    writer.configuration({ machine: "fake", capabilities: [] });
    const header = { id: 2, instance: 0, ...RAM_SECTION };
    const sink = writer.ramStart(header, [{ name: "pc.ram", usedLength: 4 * PAGE }], PAGE);
    const page = new Uint8Array(PAGE).fill(1);
    sink.page(0, 0, page, 0);
    const end = Uint8Array.of(0);
    const nothing = { sections: [], laterParts: [], commands: [] };
    writer.tail({ baseOffset: 0, eofOffset: 0, trailingBytes: 0, ...nothing }, end);
    expect(() => sink.page(0, PAGE, page, 0)).toThrow(/after its bitmap had been closed/);
    expect(() => sink.zeroPage(0, 0)).toThrow(MachineError);
  });
});
