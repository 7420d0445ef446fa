import { assert } from "../../errors/index.js";
import {
  ByteWriter,
  type Configuration,
  describeConfiguration,
  encodeSectionFooter,
  encodeSectionHeader,
  layOutJson,
  SectionType,
} from "../../wire/index.js";
import type { DeviceState } from "../host.js";

/** QEMU numbers sections in the order in which devices were registered; RAM is an early one. */
export const RAM_SECTION_ID = 2;
const FIRST_DEVICE_ID = 3;

/** Writes device sections one by one, and what describes them as they are written. */
export class DeviceSectionWriter {
  readonly #configuration: Configuration;
  readonly #pageSize: number;
  readonly #writer = new ByteWriter();
  readonly #described: string[] = [];
  #nextId = FIRST_DEVICE_ID;

  /** @param configuration What the stream began with. */
  constructor(configuration: Configuration, pageSize: number) {
    this.#configuration = configuration;
    this.#pageSize = pageSize;
  }

  add({ name, instance, version, payload, fields }: DeviceState): void {
    const described = fields.reduce((sum, { size }) => sum + size, 0);
    assert(described === payload.length, `the fields of ${name} describe its payload`);
    const id = this.#nextId++;
    encodeSectionHeader(this.#writer, SectionType.FULL, { id, name, instance, version });
    this.#writer.raw(payload);
    encodeSectionFooter(this.#writer, id);
    this.#described.push(
      layOutJson({
        name,
        instance_id: instance,
        vmsd_name: name,
        version,
        fields: fields.map(({ name: field, type, size }) => ({ name: field, type, size })),
      }),
    );
  }

  /** The sections alone, as they travel in a package. */
  sections(): Uint8Array {
    return this.#writer.finish();
  }

  /** Everything that stands behind RAM: the sections, EOF, and the description in the layout of QEMU's own. */
  finish(): Uint8Array {
    const configuration = layOutJson(describeConfiguration(this.#configuration));
    const text = new TextEncoder().encode(
      `{"configuration": ${configuration}, "page_size": ${this.#pageSize}, "devices": [${this.#described.join(", ")}]}`,
    );
    this.#writer.u8(SectionType.EOF).u8(SectionType.VMDESCRIPTION).u32(text.length).raw(text);
    return this.#writer.finish();
  }
}
