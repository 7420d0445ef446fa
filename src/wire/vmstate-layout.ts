import { FormatError } from "../errors/index.js";
import { Limits } from "./constants.js";
import {
  entriesOf,
  isArray,
  isObject,
  type JsonObject,
  type JsonValue,
  scanJson,
} from "./vmstate-json-scan.js";
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
  return layoutOfDescription({ text, offset });
}

/**
 * Like {@link parseVmstateLayout}, for a text that {@link parseVmstateDescription} has taken already: it is not parsed
 * twice.
 *
 * @throws FormatError `limit-exceeded` when its structs nest too deeply.
 */
export function layoutOfDescription({
  text,
  offset,
}: {
  readonly text: string;
  readonly offset: number;
}): VmstateLayout {
  const root = scanJson(text, offset);
  const parser = new LayoutParser(offset);
  const configuration = isObject(root) ? root.configuration : undefined;
  const devices = isObject(root) ? root.devices : undefined;
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
    const { name: section, size } = object;
    return {
      ...vmsd,
      section: typeof section === "string" ? section : "",
      instance: Number(object.instance_id),
      ...(isCount(size) && vmsd.bytes === undefined ? { bytes: size } : {}),
    };
  }

  vmsd(object: JsonObject): VmsdLayout {
    return this.#vmsds(object)[0] ?? { subsections: [] };
  }

  /** The vmsds whose keys stand in one object; each `vmsd_name` begins the next. */
  #vmsds(object: JsonObject): VmsdLayout[] {
    if (object.vmsd_name === undefined && object.fields === undefined) return [];
    if (++this.#depth > Limits.descriptionDepth) {
      throw new FormatError("limit-exceeded", "The vmstate description nests too deeply", {
        offset: this.#offset,
      });
    }
    const found: FoundVmsd[] = [];
    let current: FoundVmsd | undefined;
    for (const [key, value] of entriesOf(object)) {
      if (key === "vmsd_name" || (key === "fields" && current === undefined)) {
        current = { name: undefined, version: undefined, fields: undefined, subsections: [] };
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
    return found.map(vmsdOf);
  }

  #field(object: JsonValue): FieldLayout | undefined {
    if (!isObject(object)) return undefined;
    const { name, type, size, array_len: length, index, struct } = object;
    if (typeof name !== "string" || typeof type !== "string" || !isCount(size)) return undefined;
    if (length !== undefined && !isCount(length)) return undefined;
    const count = length ?? 1;
    const isArrayPart = length !== undefined || index !== undefined;
    const inline = this.#vmsds(object);
    // Built at once: spreading costs more than all else here.
    return isObject(struct)
      ? { name, type, bytes: size, count, isArray: isArrayPart, struct: this.vmsd(struct), inline }
      : { name, type, bytes: size, count, isArray: isArrayPart, inline };
  }
}

/** A vmsd while its keys are read. */
interface FoundVmsd {
  name: string | undefined;
  version: number | undefined;
  fields: (FieldLayout | undefined)[] | undefined;
  subsections: VmsdLayout[];
}

/** A field that is damaged leaves its vmsd without a description. */
function vmsdOf({ name, version, fields, subsections }: FoundVmsd): VmsdLayout {
  const layout: Mutable<VmsdLayout> = { subsections };
  if (name !== undefined) layout.name = name;
  if (version !== undefined) layout.version = version;
  if (!fields?.every((field) => field !== undefined)) return layout;
  layout.fields = fields;
  const bytes = wireBytes(fields, subsections);
  if (bytes !== undefined) layout.bytes = bytes;
  return layout;
}

type Mutable<T> = { -readonly [Key in keyof T]: T[Key] };

function wireBytes(fields: readonly FieldLayout[], subsections: readonly VmsdLayout[]): number | undefined {
  let total = 0;
  for (const { bytes, count } of fields) total += bytes * count;
  for (const { name, bytes } of subsections) {
    if (name === undefined || bytes === undefined) return undefined;
    total += subsectionHeadBytes(name) + bytes;
  }
  return Number.isSafeInteger(total) ? total : undefined;
}

function isCount(value: JsonValue | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
