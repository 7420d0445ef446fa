import { Buffer } from "node:buffer";

import { FormatError } from "../errors/index.js";
import {
  decodeVmstate,
  type DeviceLayout,
  matchLayouts,
  layoutOfDescription,
  type VmstateGroup,
  type VmstateLeaf,
  vmstateValueToJson,
} from "../wire/index.js";
import type { Snapshot, SnapshotSection } from "./snapshot.js";

/** A value of a device that differs. Names, paths and values are the files': use `printable()` to show them. */
export interface FieldDifference {
  readonly section: string;
  readonly instance: number;
  /** Names from the device down, with `/` between them and array elements as `[3]`. */
  readonly path: string;
  /** QEMU's name of the type. */
  readonly type: string;
  /** As in `vmstateValueToJson`, but bytes from the first difference on and not more than 32; absent where A has none. */
  readonly a?: FieldValue;
  readonly b?: FieldValue;
  /** For bytes: the first that differs. */
  readonly firstDifference?: number;
}

/** A value that JSON can hold. */
export type FieldValue = string | number | boolean | null;

/** A device that only one of the snapshots has. */
export interface DeviceOnlyIn {
  readonly section: string;
  readonly instance: number;
  readonly onlyIn: "a" | "b";
}

/** A section that was not compared, and why. */
export interface DeviceNotCompared {
  readonly section: string;
  readonly instance: number;
  readonly reason: "in parts";
}

/** What comparing devices finds. */
export type DeviceDifference =
  | { readonly kind: "field"; readonly field: FieldDifference }
  | { readonly kind: "device-only"; readonly device: DeviceOnlyIn }
  | { readonly kind: "device-skipped"; readonly device: DeviceNotCompared };

/** Values of one device that are compared by name; one with more is compared as bytes. */
const MAX_FIELDS = 1_000_000;
const SHOWN_BYTES = 32;

interface Device {
  readonly section: SnapshotSection;
  readonly layout: DeviceLayout | undefined;
}

/**
 * Compares the devices of two snapshots field by field, as their descriptions name them. Where there is no description, or
 * the bytes contradict it, the bytes are compared.
 *
 * @throws What `Snapshot.readSection` does.
 */
export function* diffDevices(a: Snapshot, b: Snapshot): Generator<DeviceDifference, void, undefined> {
  const inB = devicesOf(b);
  for (const [key, device] of devicesOf(a)) {
    const { name: section, instance, iterative } = device.section;
    const other = inB.get(key);
    inB.delete(key);
    if (other === undefined) yield { kind: "device-only", device: { section, instance, onlyIn: "a" } };
    else if (iterative) yield { kind: "device-skipped", device: { section, instance, reason: "in parts" } };
    else yield* diffDevice(a, device, b, other);
  }
  for (const { section } of inB.values()) {
    const { name, instance } = section;
    yield { kind: "device-only", device: { section: name, instance, onlyIn: "b" } };
  }
}

/** Devices by name and instance; a pair that repeats is told apart by how often it has occurred. */
function devicesOf(snapshot: Snapshot): Map<string, Device> {
  const { sections, description } = snapshot;
  const layouts = description === undefined ? [] : matchLayouts(layoutOfDescription(description), sections);
  const devices = new Map<string, Device>();
  for (const [index, section] of sections.entries()) {
    // RAM is compared page by page.
    if (section.iterative && section.name === "ram") continue;
    let key = "";
    for (let repeat = 0; key === "" || devices.has(key); repeat++) {
      key = `${section.instance} ${repeat} ${section.name}`;
    }
    devices.set(key, { section, layout: layouts[index] });
  }
  return devices;
}

function* diffDevice(
  a: Snapshot,
  inA: Device,
  b: Snapshot,
  inB: Device,
): Generator<DeviceDifference, void, undefined> {
  const bytesA = a.readSection(inA.section);
  const bytesB = b.readSection(inB.section);
  const { name: section, instance, version } = inA.section;
  if (version !== inB.section.version) {
    const field = { section, instance, path: "version", type: "version", a: version, b: inB.section.version };
    yield { kind: "field", field };
  }
  // Descriptions of equal bytes can differ between QEMU versions: that is no difference of the guest.
  if (Buffer.compare(bytesA, bytesB) === 0) return;
  const fieldsA = fieldsOf(inA, bytesA);
  const fieldsB = fieldsOf(inB, bytesB);
  const [oldFields, newFields] =
    fieldsA === undefined || fieldsB === undefined
      ? [wholePayload(inA, bytesA), wholePayload(inB, bytesB)]
      : [fieldsA, fieldsB];
  for (const [path, leaf] of oldFields) {
    const difference = diffLeaves(leaf, newFields.get(path));
    newFields.delete(path);
    if (difference !== undefined) yield { kind: "field", field: { section, instance, path, ...difference } };
  }
  for (const [path, leaf] of newFields) {
    const field = { section, instance, path, type: leaf.type, b: showValue(leaf.value, 0) };
    yield { kind: "field", field };
  }
}

/** The values by their paths; undefined when they cannot be had. */
function fieldsOf({ section, layout }: Device, payload: Uint8Array): Map<string, VmstateLeaf> | undefined {
  const source = {
    section: section.name,
    payload,
    payloadOffset: section.payloadOffset ?? 0,
    maxNodes: MAX_FIELDS,
  };
  const fields = new Map<string, VmstateLeaf>();
  const open: { readonly group: VmstateGroup; readonly path: string }[] = [];
  try {
    for (const event of decodeVmstate(layout, source)) {
      if (event.kind === "end") open.pop();
      else {
        const parent = open.at(-1);
        const path = parent === undefined ? "" : pathBelow(parent.path, parent.group, event);
        if (event.kind === "value") fields.set(unusedPath(fields, path), event);
        else open.push({ group: event, path });
      }
    }
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
  return fields;
}

function pathBelow(path: string, parent: VmstateGroup, child: VmstateGroup | VmstateLeaf): string {
  const { name, index } = child;
  if (index !== undefined && (parent.kind === "array" || parent.kind === "list")) {
    // A tree's items come in pairs of one index.
    const isPair = parent.kind === "list" && (name === "key" || name === "value");
    return `${path}[${index}]${isPair ? `/${name}` : ""}`;
  }
  return path === "" ? name : `${path}/${name}`;
}

function unusedPath(fields: ReadonlyMap<string, VmstateLeaf>, path: string): string {
  let unused = path;
  for (let repeat = 2; fields.has(unused); repeat++) unused = `${path}#${repeat}`;
  return unused;
}

function wholePayload({ section }: Device, payload: Uint8Array): Map<string, VmstateLeaf> {
  const leaf: VmstateLeaf = {
    kind: "value",
    name: "data",
    type: "buffer",
    offset: section.payloadOffset ?? 0,
    size: payload.length,
    value: payload,
  };
  return new Map([["data", leaf]]);
}

function diffLeaves(
  a: VmstateLeaf,
  b: VmstateLeaf | undefined,
): Omit<FieldDifference, "section" | "instance" | "path"> | undefined {
  if (b === undefined) return { type: a.type, a: showValue(a.value, 0) };
  if (a.value instanceof Uint8Array && b.value instanceof Uint8Array) {
    const at = firstDifference(a.value, b.value);
    if (at === undefined) return undefined;
    return { type: b.type, a: showValue(a.value, at), b: showValue(b.value, at), firstDifference: at };
  }
  if (a.value === b.value) return undefined;
  const [oldValue, newValue] = [showValue(a.value, 0), showValue(b.value, 0)];
  return oldValue === newValue ? undefined : { type: b.type, a: oldValue, b: newValue };
}

function firstDifference(a: Uint8Array, b: Uint8Array): number | undefined {
  const length = Math.min(a.length, b.length);
  for (let index = 0; index < length; index++) if (a[index] !== b[index]) return index;
  return a.length === b.length ? undefined : length;
}

function showValue(value: VmstateLeaf["value"], from: number): FieldValue {
  if (!(value instanceof Uint8Array)) return vmstateValueToJson(value);
  const shown = value.subarray(from, from + SHOWN_BYTES);
  const rest = value.length - from - shown.length;
  return `${String(vmstateValueToJson(shown))}${rest > 0 ? `... (${rest} more bytes)` : ""}`;
}
