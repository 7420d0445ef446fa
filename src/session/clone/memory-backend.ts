import { joinParts, type OptionPart, parseParts, parseSize, part } from "./qemu-options.js";

/** A memory backend of a command line: `-object memory-backend-ram,id=mem0,size=1G`. */
export interface BackendOption {
  readonly id: string;
  /** undefined where it does not say a size that can be read. */
  readonly sizeBytes: number | undefined;
  /** Whether it says that other processes are to see this memory. */
  readonly isShared: boolean;
  /** Settings that stay: how the host is to treat the memory. */
  readonly kept: readonly OptionPart[];
  /** Names of settings that mean nothing for a file that is mapped privately. */
  readonly ignored: readonly string[];
  /** Whether it was written as JSON: then the values are those of the object. */
  readonly json?: Readonly<Record<string, unknown>>;
}

/** What a backend is made to map. */
interface Mapping {
  readonly id: string;
  readonly block: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

const BACKEND_TYPE = /^memory-backend-(ram|file|memfd|shm)$/;
const KEPT = new Set(["policy", "host-nodes", "dump", "merge"]);
/** What clones have settings of their own for. */
const REPLACED = new Set([
  "qom-type",
  "id",
  "size",
  "share",
  "mem-path",
  "offset",
  "readonly",
  "rom",
  "x-use-canonical-path-for-ramblock-id",
]);

/** Reads the value of an `-object`, in either of QEMU's two forms; undefined for an object that is no memory backend. */
export function parseBackend(text: string): BackendOption | undefined {
  const json = text.trimStart().startsWith("{") ? parseObject(text) : undefined;
  const parts =
    json === undefined
      ? parseParts(text, "qom-type")
      : Object.entries(json).map(([key, value]) => ({ key, value: settingText(value), raw: key }));
  const get = (key: string): string | undefined => parts.findLast((each) => each.key === key)?.value;
  const [type = "", id] = [get("qom-type"), get("id")];
  if (!BACKEND_TYPE.test(type) || id === undefined) return undefined;
  return {
    id,
    sizeBytes: parseSize(get("size") ?? "", 1),
    isShared: /^(on|yes|true|y)$/i.test(get("share") ?? ""),
    kept: parts.filter(({ key }) => KEPT.has(key)),
    ignored: parts.map(({ key }) => key).filter((key) => !KEPT.has(key) && !REPLACED.has(key)),
    ...(json === undefined ? {} : { json }),
  };
}

/**
 * The value of the `-object` that maps a page area of the snapshot: privately, from a file that is only read, and under the name
 * that the block has in the stream.
 *
 * @param former What it takes the place of, in whose form it is written.
 */
export function formatBackend(
  former: BackendOption | undefined,
  { id, block, offset, sizeBytes }: Mapping,
  { path }: { readonly path: string },
): string {
  const isPathName = block !== id;
  if (former?.json !== undefined) {
    const kept = Object.fromEntries(Object.entries(former.json).filter(([key]) => KEPT.has(key)));
    return JSON.stringify({
      "qom-type": "memory-backend-file",
      id,
      size: sizeBytes,
      "mem-path": path,
      offset,
      share: false,
      readonly: true,
      rom: "off",
      "x-use-canonical-path-for-ramblock-id": isPathName,
      ...kept,
    });
  }
  return joinParts([
    { raw: "memory-backend-file" },
    part("id", id),
    part("size", sizeBytes),
    part("mem-path", path),
    part("offset", offset),
    part("share", "off"),
    part("readonly", "on"),
    part("rom", "off"),
    part("x-use-canonical-path-for-ramblock-id", isPathName ? "on" : "off"),
    ...(former?.kept ?? []),
  ]);
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    // QEMU says what is wrong with it.
    return undefined;
  }
}

function settingText(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
