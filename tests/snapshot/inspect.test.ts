import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { FormatError, UsageError } from "../../src/errors/index.js";
import { MappedRamWriter } from "../../src/engine/index.js";
import {
  descriptionLines,
  inspectionJson,
  inspectSnapshot,
  type SnapshotInspection,
} from "../../src/snapshot/index.js";
import {
  buildVmstateTree,
  ByteWriter,
  decodeStreamTail,
  encodeSectionFooter,
  encodeSectionHeader,
  findVmstateNode,
  SectionType,
  type VmstateValue,
} from "../../src/wire/index.js";
import {
  corpus,
  type CorpusFile,
  corpusFile,
  corpusOffset,
  corpusPath,
  describeWithCorpus,
} from "../support/corpus.js";
import { useWorkDir } from "../support/work-dir.js";
import { buildSnapshot, MemorySource } from "./build-snapshot.js";

const workDir = useWorkDir();

interface JsonDevice {
  readonly name: string;
  readonly instance: number;
  readonly described: boolean;
  readonly undecodedBytes?: number;
  readonly values?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly code: string; readonly message: string };
}

interface JsonInspection {
  readonly machine: string;
  readonly targetPageSize: number;
  readonly runState?: string;
  readonly problems: readonly string[];
  readonly devices: readonly JsonDevice[];
}

function open(facts: CorpusFile): Promise<SnapshotInspection> {
  return inspectSnapshot(corpusPath(facts), { offset: corpusOffset(facts) });
}

function jsonOf(inspection: SnapshotInspection, onError?: (error: FormatError) => void): JsonInspection {
  const options = onError === undefined ? {} : { onError };
  return JSON.parse([...inspectionJson(inspection, options)].join("")) as JsonInspection;
}

function valueOf(inspection: SnapshotInspection, name: string, ...path: (string | number)[]): VmstateValue {
  const device = inspection.devices.find((candidate) => candidate.name === name)!;
  const node = findVmstateNode(buildVmstateTree(device.values()), ...path);
  expect(node?.kind, [name, ...path].join("/")).toBe("value");
  return node?.kind === "value" ? node.value : null;
}

describeWithCorpus("inspecting what QEMU and libvirt wrote", () => {
  test.each(corpus?.files ?? [])("$name: every described device, and its JSON", async (facts) => {
    const inspection = await open(facts);
    const json = jsonOf(inspection, (error) => expect.fail(error.message));
    expect(json.targetPageSize).toBe(facts.targetPageSize);
    expect(json.machine).toBe(facts.machine);
    expect(json.problems).toEqual([]);
    expect(json.runState).toMatch(/^(paused|prelaunch)$/);
    const { devices } = JSON.parse([...descriptionLines(inspection.description!)].join("")) as {
      devices: { name: string; instance_id: number }[];
    };
    const found = json.devices.map(({ name, instance }) => `${name}/${instance}`);
    expect(found).toEqual(expect.arrayContaining(devices.map((it) => `${it.name}/${it.instance_id}`)));
    for (const { name, values } of json.devices) expect(values, name).toBeDefined();
    // Payloads are where they are said to be, for what is not packed.
    if (facts.container === "qemu") {
      const bytes = readFileSync(corpusPath(facts));
      for (const device of inspection.devices) {
        const { name, payloadOffset, payloadLength } = device;
        const there = bytes.subarray(payloadOffset, payloadOffset + payloadLength);
        expect(there.equals(device.payload()), name).toBe(true);
      }
    }
    inspection.close();
  });

  test("values that are known", async () => {
    const inspection = await open(corpusFile("q100-mr-pc"));
    expect(inspection).toMatchObject({ container: "qemu", format: "mapped-ram", targetPageSize: 4096 });
    expect(inspection.runState).toBe("paused");
    const state = valueOf(inspection, "globalstate", "runstate") as Uint8Array;
    expect(Buffer.from(state).toString("latin1").replaceAll("\0", "")).toBe("paused");
    expect(typeof valueOf(inspection, "timer", "cpu_clock_offset")).toBe("bigint");
    // What every x86 has, whatever it runs: the fixed bit of EFLAGS, and an APIC at its usual place.
    expect(Number(valueOf(inspection, "cpu", "env.eflags")) & 2).toBe(2);
    expect(typeof valueOf(inspection, "cpu", "env.regs", 4)).toBe("bigint");
    expect(valueOf(inspection, "apic", "apicbase")).toBe(0xfee00900);
    inspection.close();
  });

  test("an image says the same however libvirt packed it", async () => {
    const devices = [];
    for (const name of ["lv113-xz", "lv113-zstd"]) {
      const inspection = await open(corpusFile(name));
      expect(inspection.container).toBe("libvirt");
      expect(inspection.runState).toBe("paused");
      devices.push(inspection.devices.map((device) => [device.name, device.payload().length]));
      inspection.close();
    }
    expect(devices[0]).toEqual(devices[1]);
  });

  test("a damaged end leaves what is in front of it", async () => {
    const facts = corpus!.broken.find(({ name }) => name === "trunc-vmdesc")!;
    const inspection = await inspectSnapshot(corpusPath(facts));
    expect(inspection.problems[0]).toBeInstanceOf(FormatError);
    const { devices, problems } = jsonOf(inspection);
    expect(problems.length).toBeGreaterThan(0);
    expect(devices.length).toBeGreaterThan(0);
    expect(devices.every(({ described }) => !described)).toBe(true);
    inspection.close();
  });
});

/** A snapshot with one device whose description is given. */
function snapshotOf(fields: string, payload: Uint8Array, rest = ""): Uint8Array {
  const file = new MemorySource();
  const writer = new MappedRamWriter(file);
  writer.configuration({ machine: "test-1.0", capabilities: [] });
  writer.ramStart({ id: 1, name: "ram", instance: 0, version: 4 }, [{ name: "m", usedLength: 4096 }], 4096);
  writer.ramSectionEnd(SectionType.START, true);
  const tail = new ByteWriter();
  encodeSectionHeader(tail, SectionType.FULL, { id: 2, name: "dev", instance: 3, version: 1 });
  tail.raw(payload);
  encodeSectionFooter(tail, 2);
  const device = `{"name": "dev", "instance_id": 3, "vmsd_name": "dev", "version": 1, "fields": ${fields}${rest}}`;
  const text = new TextEncoder().encode(`{"page_size": 4096, "devices": [${device}]}`);
  tail.u8(SectionType.EOF).u8(SectionType.VMDESCRIPTION).u32(text.length).raw(text);
  const bytes = tail.finish();
  writer.tail(decodeStreamTail(bytes, 0), bytes);
  return file.bytes;
}

describe("inspectSnapshot", () => {
  test("a device whose payload contradicts its description", async () => {
    const file = workDir.file("vm.ram");
    const subsection = `, "subsections": [{"vmsd_name": "dev/more", "version": 1, "fields": []}]`;
    const payload = new ByteWriter().u8(1).u8(5).idstr("dev/less").u32(1).finish();
    writeFileSync(file, snapshotOf(`[{"name": "a", "type": "uint8", "size": 1}]`, payload, subsection));
    const inspection = await inspectSnapshot(file);
    const [device] = inspection.devices;
    expect(() => [...device!.values()]).toThrow(FormatError);
    const errors: FormatError[] = [];
    const json = jsonOf(inspection, (error) => errors.push(error));
    expect(json.devices).toMatchObject([{ name: "dev", instance: 3, error: { code: "malformed" } }]);
    expect(json.devices[0]).not.toHaveProperty("values");
    expect(errors).toMatchObject([{ code: "malformed", data: { section: "dev" } }]);
    inspection.close();
  });

  test("sizes that do not fit leave the bytes, and say so", async () => {
    const file = workDir.file("vm.ram");
    writeFileSync(
      file,
      snapshotOf(`[{"name": "a", "type": "virtio", "size": 3}]`, new Uint8Array([1, 2, 3])),
    );
    const inspection = await inspectSnapshot(file);
    expect(jsonOf(inspection).devices).toMatchObject([
      { described: true, undecodedBytes: 3, values: { a: "hex:010203" } },
    ]);
    inspection.close();
    expect(() => inspection.devices[0]!.payload()).toThrow(UsageError);
  });

  test("devices without a description", async () => {
    const file = workDir.file("vm.ram");
    writeFileSync(file, buildSnapshot().bytes);
    const inspection = await inspectSnapshot(file);
    expect(inspection.runState).toBeUndefined();
    expect(jsonOf(inspection).devices).toMatchObject([
      { name: "cpu", instance: 0, described: true, undecodedBytes: 0 },
      { name: "cpu", instance: 1, described: true, undecodedBytes: 0 },
      {
        name: "old-device",
        described: false,
        undecodedBytes: 17,
        values: { data: `hex:${"09".repeat(17)}` },
      },
    ]);
    inspection.close();
  });
});

describe("descriptionLines", () => {
  test("keeps repeated keys, and escapes what could control a terminal", () => {
    const text = `{"a":[{"b":{},"b":[]},1,"x\u202ey\u007f"],"devices":[{"name":"d","instance_id":1},{"name":"e"}]}`;
    const lines = [...descriptionLines(text, (name, instance) => name === "d" && instance === 1)];
    expect(lines.join("\n")).toBe(
      [
        "{",
        '  "a": [',
        "    {",
        '      "b": {},',
        '      "b": []',
        "    },",
        "    1,",
        String.raw`    "x\u202ey\u007f"`,
        "  ],",
        '  "devices": [',
        '    { "name": "d", "instance_id": 1 }',
        "  ]",
        "}",
      ].join("\n"),
    );
  });
});
