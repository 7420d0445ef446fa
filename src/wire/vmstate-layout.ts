import { FormatError } from "../errors/index.js";
import { Limits } from "./constants.js";
import { isArray, isObject, type JsonObject, type JsonValue, scanJson } from "./vmstate-json-scan.js";
import { parseVmstateDescription } from "./vmstate-description.js";

/** A vmsd (`VMStateDescription` in QEMU): fields, then subsections, as they follow each other on the wire. */
export interface VmsdLayout {
  readonly name?: string;
  readonly version?: number;
  /** Absent when the description says nothing of the fields, as for a null pointer of QEMU 9 and older. */
  readonly fields?: readonly FieldLayout[];
  readonly subsections: readonly VmsdLayout[];
  /** Bytes of fields and subsections on the wire, when the description says it. */
  readonly bytes?: number;
}

/** One entry of a vmsd's field list. Equal elements of an array can share one entry. */
export interface FieldLayout {
  readonly name: string;
  /** QEMU's name of the type (`VMStateInfo.name`, or `struct`). */
  readonly type: string;
  /** Bytes of one element, with everything nested in it. */
  readonly bytes: number;
  /** Elements that share this entry (`array_len`), 1 without it. */
  readonly count: number;
  /** Whether the entry has `array_len` or `index`: it is an array, or one element of one. */
  readonly isArray: boolean;
  readonly struct?: VmsdLayout;
  /**
   * vmsds that stand right in the entry, one for each time the type's own code wrote one: the content of `tmp` and
   * `vstruct`, the elements of `qtailq` and `qlist`, keys and values of `gtree`.
   */
  readonly inline: readonly VmsdLayout[];
}

/** A device's entry: its vmsd, or only a size for devices that have none. */
export interface DeviceLayout extends VmsdLayout {
  /** Section name. {@link VmsdLayout.name} is the vmsd's. */
  readonly section: string;
  readonly instance: number;
}

/** The whole vmstate description, down to each field. */
export interface VmstateLayout {
  /** Of the CONFIGURATION section; QEMU 7.2 does not describe it. */
  readonly configuration?: VmsdLayout;
  readonly devices: readonly DeviceLayout[];
}

const SUBSECTION_HEAD_BYTES = 1 + 1 + 4;
const utf8 = new TextEncoder();

/** Bytes that a subsection's type byte, name and version take before its fields. */
export function subsectionHeadBytes(name: string): number {
  return SUBSECTION_HEAD_BYTES + utf8.encode(name).length;
}

/**
 * Parses the description's JSON text in full. QEMU repeats keys in the entries of lists and trees, once for each
 * element; all of them are kept.
 *
 * @param offset Where the text stands in the file, for errors.
 * @throws FormatError as {@link parseVmstateDescription} does. A vmsd with a damaged field is one without a description.
 */
export function parseVmstateLayout(text: string, offset: number): VmstateLayout {
  // Checks the syntax and the limits: the scanner relies on both.
  parseVmstateDescription(text, offset);
  const root = scanJson(text);
  const parser = new LayoutParser(offset);
  const configuration = isObject(root) ? last(root, "configuration") : undefined;
  const devices = isObject(root) ? last(root, "devices") : undefined;
  return {
    ...(isObject(configuration) ? { configuration: parser.vmsd(configuration) } : {}),
    devices: isArray(devices) ? devices.filter(isObject).map((device) => parser.device(device)) : [],
  };
}

/**
 * The description's entry of each section, in the sections' order. A name and instance that occurs more than once is
 * taken in the order of the description.
 */
export function matchLayouts(
  layout: VmstateLayout,
  sections: readonly { readonly name: string; readonly instance: number }[],
): (DeviceLayout | undefined)[] {
  const waiting = new Map<string, DeviceLayout[]>();
  // Last first, so that taking one is a pop.
  for (const device of layout.devices.toReversed()) {
    const key = `${device.instance} ${device.section}`;
    const same = waiting.get(key);
    if (same === undefined) waiting.set(key, [device]);
    else same.push(device);
  }
  return sections.map(({ name, instance }) => waiting.get(`${instance} ${name}`)?.pop());
}

class LayoutParser {
  readonly #offset: number;
  #depth = 0;

  constructor(offset: number) {
    this.#offset = offset;
  }

  device(object: JsonObject): DeviceLayout {
    const vmsd = this.vmsd(object);
    const section = last(object, "name");
    const size = last(object, "size");
    return {
      ...vmsd,
      section: typeof section === "string" ? section : "",
      instance: Number(last(object, "instance_id")),
      ...(isCount(size) && vmsd.bytes === undefined ? { bytes: size } : {}),
    };
  }

  vmsd(object: JsonObject): VmsdLayout {
    return this.#vmsds(object)[0] ?? { subsections: [] };
  }

  /** The vmsds whose keys stand in one object; each `vmsd_name` begins the next. */
  #vmsds(object: JsonObject): VmsdLayout[] {
    if (++this.#depth > Limits.descriptionDepth) {
      throw new FormatError("limit-exceeded", "The vmstate description nests too deeply", {
        offset: this.#offset,
      });
    }
    const found: {
      name?: string;
      version?: number;
      fields?: (FieldLayout | undefined)[];
      subsections: VmsdLayout[];
    }[] = [];
    for (const [key, value] of object.entries) {
      let current = found.at(-1);
      if (key === "vmsd_name" || (key === "fields" && current === undefined)) {
        current = { subsections: [] };
        found.push(current);
      }
      if (current === undefined) continue;
      if (key === "vmsd_name" && typeof value === "string") current.name = value;
      else if (key === "version" && typeof value === "number") current.version = value;
      else if (key === "fields" && isArray(value)) current.fields = value.map((item) => this.#field(item));
      else if (key === "subsections" && isArray(value)) {
        current.subsections = value.map((item) => (isObject(item) ? this.vmsd(item) : { subsections: [] }));
      }
    }
    this.#depth -= 1;
    return found.map(({ fields: items, ...vmsd }) => {
      const fields = items?.filter((field) => field !== undefined);
      if (fields === undefined || fields.length !== items?.length) return vmsd;
      const bytes = wireBytes(fields, vmsd.subsections);
      return { ...vmsd, fields, ...(bytes === undefined ? {} : { bytes }) };
    });
  }

  #field(object: JsonValue): FieldLayout | undefined {
    if (!isObject(object)) return undefined;
    const name = last(object, "name");
    const type = last(object, "type");
    const size = last(object, "size");
    const length = last(object, "array_len");
    if (typeof name !== "string" || typeof type !== "string" || !isCount(size)) return undefined;
    if (length !== undefined && !isCount(length)) return undefined;
    const struct = last(object, "struct");
    return {
      name,
      type,
      bytes: size,
      count: length ?? 1,
      isArray: length !== undefined || last(object, "index") !== undefined,
      ...(isObject(struct) ? { struct: this.vmsd(struct) } : {}),
      inline: this.#vmsds(object),
    };
  }
}

function wireBytes(fields: readonly FieldLayout[], subsections: readonly VmsdLayout[]): number | undefined {
  let total = 0;
  for (const { bytes, count } of fields) total += bytes * count;
  for (const { name, bytes } of subsections) {
    if (name === undefined || bytes === undefined) return undefined;
    total += subsectionHeadBytes(name) + bytes;
  }
  return Number.isSafeInteger(total) ? total : undefined;
}

/** The last value of a key: what JSON.parse keeps too. */
function last(object: JsonObject, key: string): JsonValue | undefined {
  return object.entries.findLast(([name]) => name === key)?.[1];
}

function isCount(value: JsonValue | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
