import { FormatError } from "../errors/index.js";
import type { Configuration } from "./configuration.js";
import { Limits } from "./constants.js";
import { type Json, layOutJson } from "./json-layout.js";

/** One device of the description, in stream order. */
export interface DescribedDevice {
  readonly name: string;
  readonly instance: number;
  /** Version of its vmsd; old devices have none. */
  readonly version?: number;
  /** Bytes of the section's payload, when the description says it. */
  readonly payloadBytes?: number;
}

/** The vmstate description (`vmdesc`) that QEMU appends to its streams. */
export interface VmstateDescription {
  /** Target page size in bytes. */
  readonly pageSize?: number;
  readonly devices: readonly DescribedDevice[];
}

const utf8 = new TextEncoder();

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;
const OPENING_BRACKET = 0x5b;
const CLOSING_BRACKET = 0x5d;
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;

/**
 * Parses the description's JSON text.
 *
 * @param offset Where the text stands in the file, for errors.
 * @throws FormatError when it is not JSON, not a description, or nested beyond reason.
 */
export function parseVmstateDescription(text: string, offset: number): VmstateDescription {
  const root = parseJson(text, offset);
  if (!isObject(root)) throw notADescription(offset, "the outermost value is no object");
  const devices = root.devices ?? [];
  if (!isArray(devices)) throw notADescription(offset, "devices is no list");
  if (devices.length > Limits.sections) {
    throw new FormatError("limit-exceeded", "The vmstate description lists too many devices", {
      offset,
      expected: `at most ${Limits.sections}`,
      actual: devices.length,
    });
  }
  const pageSize = root.page_size;
  return {
    devices: devices.map((device) => describeDevice(device, offset)),
    ...(typeof pageSize === "number" ? { pageSize } : {}),
  };
}

/**
 * The description's text for another list of configuration capabilities: what QEMU itself would have written with them.
 * Where there is nothing to change, or the text is not laid out as QEMU's, it comes back as it was: a loader skips it.
 */
export function describeCapabilities(text: string, capabilities: readonly string[]): string {
  let root: Json;
  try {
    root = parseJson(text, 0);
  } catch {
    return text;
  }
  if (!isObject(root) || layOutJson(root) !== text) return text;
  const configuration = root.configuration;
  if (configuration === undefined || !isObject(configuration)) return text;
  const { subsections: before, ...rest } = configuration;
  const others = (before !== undefined && isArray(before) ? before : []).filter(
    (subsection) => !(isObject(subsection) && subsection.vmsd_name === CAPABILITIES),
  );
  // QEMU's order: target page bits, capabilities, UUID.
  const position = others.findIndex(
    (subsection) => isObject(subsection) && subsection.vmsd_name !== PAGE_BITS,
  );
  const at = position < 0 ? others.length : position;
  const subsections = [
    ...others.slice(0, at),
    ...(capabilities.length === 0 ? [] : [capabilitiesSubsection(capabilities)]),
    ...others.slice(at),
  ];
  return layOutJson({
    ...root,
    configuration: subsections.length === 0 ? rest : { ...rest, subsections },
  });
}

/** How QEMU's own description shows a CONFIGURATION section: its readers need it to find the end of the section. */
export function describeConfiguration({ machine, targetPageBits, capabilities, uuid }: Configuration): Json {
  const subsections = [
    ...(targetPageBits === undefined ? [] : [pageBitsSubsection]),
    ...(capabilities.length === 0 ? [] : [capabilitiesSubsection(capabilities)]),
    ...(uuid === undefined ? [] : [uuidSubsection]),
  ];
  return {
    vmsd_name: "configuration",
    version: 1,
    fields: [
      { name: "len", type: "uint32", size: 4 },
      { name: "name", type: "buffer", size: new TextEncoder().encode(machine).length },
    ],
    ...(subsections.length === 0 ? {} : { subsections }),
  };
}

const CAPABILITIES = "configuration/capabilities";
const PAGE_BITS = "configuration/target-page-bits";

const pageBitsSubsection: Json = {
  vmsd_name: PAGE_BITS,
  version: 1,
  fields: [{ name: "target_page_bits", type: "uint32", size: 4 }],
};

const uuidSubsection: Json = {
  vmsd_name: "configuration/uuid",
  version: 1,
  fields: [{ name: "uuid.data", array_len: 16, type: "uint8", size: 1 }],
};

function capabilitiesSubsection(capabilities: readonly string[]): Json {
  // Each element is a length byte and the name. QEMU's writer notes the first one's size for all of them.
  const size = 1 + (capabilities[0]?.length ?? 0);
  return {
    vmsd_name: CAPABILITIES,
    version: 1,
    fields: [
      { name: "caps_count", type: "uint32", size: 4 },
      {
        name: "capabilities",
        ...(capabilities.length > 1 ? { array_len: capabilities.length } : {}),
        type: "capability",
        size,
      },
    ],
  };
}

function describeDevice(device: Json, offset: number): DescribedDevice {
  if (!isObject(device)) throw notADescription(offset, "a device is no object");
  const { name, instance_id: instance, version, size } = device;
  if (typeof name !== "string" || !isByteCount(instance)) {
    throw notADescription(offset, "a device has no name or instance");
  }
  if (typeof size === "number" && !isByteCount(size)) {
    throw notADescription(offset, "a device's size is no number of bytes");
  }
  const payloadBytes = isByteCount(size) ? size : sizeOfVmsd(device, 0, offset);
  return {
    name,
    instance,
    ...(typeof version === "number" ? { version } : {}),
    ...(payloadBytes === undefined ? {} : { payloadBytes }),
  };
}

/** Bytes of a vmsd's fields and subsections on the wire, or undefined where the description does not say. */
function sizeOfVmsd(vmsd: Readonly<Record<string, Json>>, depth: number, offset: number): number | undefined {
  if (depth > Limits.descriptionDepth) {
    throw new FormatError("limit-exceeded", "The vmstate description nests too deeply", { offset });
  }
  const { fields, subsections } = vmsd;
  if (fields === undefined || !isArray(fields)) return undefined;
  let total = 0;
  for (const field of fields) {
    const size = isObject(field) ? field.size : undefined;
    const count = isObject(field) ? (field.array_len ?? 1) : 1;
    // A field's size covers all that its nested structs wrote.
    if (!isByteCount(size) || !isByteCount(count)) return undefined;
    // QEMU 9 and older describe an array of pointers by its first element: a null one says nothing of the others.
    if (count > 1 && isObject(field) && isNullPointer(field)) return undefined;
    total += size * count;
  }
  for (const subsection of subsections !== undefined && isArray(subsections) ? subsections : []) {
    if (!isObject(subsection)) return undefined;
    const name = subsection.vmsd_name;
    const size = sizeOfVmsd(subsection, depth + 1, offset);
    if (size === undefined || typeof name !== "string") return undefined;
    // Type byte, idstr and be32 version stand before the subsection's fields.
    total += 1 + 1 + utf8.encode(name).length + 4 + size;
  }
  return Number.isSafeInteger(total) ? total : undefined;
}

function isNullPointer({ struct }: Readonly<Record<string, Json>>): boolean {
  return struct !== undefined && isObject(struct) && struct.fields === undefined;
}

function parseJson(text: string, offset: number): Json {
  // A short text has no room for too many values, and looking at each character costs ten times the parsing.
  if (text.length > Limits.descriptionValues) checkJsonSize(text, offset);
  let value: Json;
  try {
    value = JSON.parse(text) as Json;
  } catch (cause) {
    checkJsonSize(text, offset);
    throw new FormatError("malformed", "The vmstate description is not JSON", { offset }, cause);
  }
  if (isNested(value) && isDeeper(value, Limits.descriptionJsonDepth)) checkJsonSize(text, offset);
  return value;
}

type Nested = readonly Json[] | Readonly<Record<string, Json>>;

/** Thousands of values are looked at, once, before a guest runs: nothing is made or called for those that hold no others. */
function isDeeper(value: Nested, depth: number): boolean {
  if (depth === 0) return true;
  if (isArray(value)) return value.some((item) => isNested(item) && isDeeper(item, depth - 1));
  for (const key in value) {
    const item = value[key];
    if (item !== undefined && isNested(item) && isDeeper(item, depth - 1)) return true;
  }
  return false;
}

function isNested(value: Json): value is Nested {
  return typeof value === "object" && value !== null;
}

/**
 * Refuses a text whose values would take far more memory than itself, or more stack than there is: a few dozen megabytes
 * of brackets become gigabytes.
 *
 * @throws FormatError `limit-exceeded`.
 */
export function checkJsonSize(text: string, offset: number): void {
  let depth = 0;
  let values = 0;
  for (let index = 0; index < text.length; index++) {
    const character = text.charCodeAt(index);
    if (character === QUOTE) index = endOfString(text, index);
    else if (character === COMMA) values += 1;
    else if (character === OPENING_BRACKET || character === OPENING_BRACE) {
      depth += 1;
      values += 1;
    } else if (character === CLOSING_BRACKET || character === CLOSING_BRACE) depth -= 1;
    if (depth > Limits.descriptionJsonDepth || values > Limits.descriptionValues) {
      throw new FormatError(
        "limit-exceeded",
        "The vmstate description nests too deeply or has too many values",
        {
          offset: offset + index,
        },
      );
    }
  }
}

/** Index of the quote that closes the string opened at `start`, or the text's length. */
function endOfString(text: string, start: number): number {
  for (let index = start + 1; index < text.length; index++) {
    const character = text.charCodeAt(index);
    if (character === QUOTE) return index;
    if (character === BACKSLASH) index += 1;
  }
  return text.length;
}

function isObject(value: Json): value is Readonly<Record<string, Json>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isArray(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

function isByteCount(value: Json | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function notADescription(offset: number, why: string): FormatError {
  return new FormatError("malformed", `The vmstate description is damaged: ${why}`, { offset });
}
