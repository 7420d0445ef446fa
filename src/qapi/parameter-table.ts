/**
 * What each migration parameter takes, after QEMU 11.1 (`migrate_params_check` and the types in its schema), and which
 * of them the engine has.
 *
 * QEMU's 64-bit parameters go up to 2^64 - 1, and it reads a negative number as a large one. Here they end at 2^53 - 1,
 * beyond which a number of JavaScript is no longer exact, and nothing is negative.
 *
 * @module
 */
import type { MigrationParameters, ParameterName } from "./parameters.js";
import { MIGRATION_MODES, MULTIFD_COMPRESSIONS, ZERO_PAGE_DETECTIONS } from "./parameters.js";

/** The smallest cache that holds a page. The engine's guests have pages of 4 KiB, as x86 has. */
const TARGET_PAGE_SIZE_BYTES = 4096;

/** Unit of an integer parameter. */
export type ParameterUnit = "bytes" | "bytes per second" | "MB/s" | "ms" | "percent";

/** What values a parameter takes. */
export type ParameterType =
  | {
      readonly type: "integer";
      readonly minimum: number;
      readonly maximum: number;
      /** None for plain counts and levels. */
      readonly unit?: ParameterUnit;
      /** Whether only powers of two are taken. */
      readonly powerOfTwo?: true;
    }
  | { readonly type: "boolean" }
  | { readonly type: "string" }
  | { readonly type: "enum"; readonly values: readonly string[] }
  /** A list of strings. */
  | { readonly type: "strings" }
  /** A list of {@link BitmapMigrationNodeAlias}. */
  | { readonly type: "bitmap-mapping" };

/** What the engine does with a parameter; without support it can only keep its default. */
export type ParameterSupport =
  | { readonly supported: true }
  /** `reason` ends the sentence "The parameter x is not supported: ". */
  | { readonly supported: false; readonly reason: string };

/** One parameter. */
export type ParameterSpec = ParameterType & ParameterSupport;

const NO_ANNOUNCING = "the engine has no network cards to announce";
const NO_MULTIFD = "it is for multifd over sockets, which the engine does not have";
const NO_TLS = "the engine sends without TLS";
const NO_DIRTY_LIMIT = "it is for dirty-limit, which the engine does not have";

/** Every parameter of QEMU 11.1, in the order of its schema. */
export const PARAMETERS: Readonly<Record<ParameterName, ParameterSpec>> = {
  "announce-initial": { ...integer(0, 100_000, "ms"), ...no(NO_ANNOUNCING) },
  "announce-max": { ...integer(0, 100_000, "ms"), ...no(NO_ANNOUNCING) },
  "announce-rounds": { ...integer(0, 1000), ...no(NO_ANNOUNCING) },
  "announce-step": { ...integer(1, 10_000, "ms"), ...no(NO_ANNOUNCING) },
  "throttle-trigger-threshold": { ...integer(1, 100, "percent"), supported: true },
  "cpu-throttle-initial": { ...integer(1, 99, "percent"), supported: true },
  "cpu-throttle-increment": { ...integer(1, 99, "percent"), supported: true },
  "cpu-throttle-tailslow": { type: "boolean", supported: true },
  "tls-creds": { type: "string", ...no(NO_TLS) },
  "tls-hostname": { type: "string", ...no(NO_TLS) },
  "tls-authz": { type: "string", ...no(NO_TLS) },
  "max-bandwidth": { ...integer(0, Number.MAX_SAFE_INTEGER, "bytes per second"), supported: true },
  "avail-switchover-bandwidth": {
    ...integer(0, Number.MAX_SAFE_INTEGER, "bytes per second"),
    supported: true,
  },
  "downtime-limit": { ...integer(0, 2_000_000, "ms"), supported: true },
  "x-checkpoint-delay": {
    ...integer(0, 0xffff_ffff, "ms"),
    ...no("it is for x-colo, which the engine does not have"),
  },
  "multifd-channels": { ...integer(1, 255), supported: true },
  "xbzrle-cache-size": {
    ...integer(TARGET_PAGE_SIZE_BYTES, Number.MAX_SAFE_INTEGER, "bytes"),
    powerOfTwo: true,
    supported: true,
  },
  "max-postcopy-bandwidth": { ...integer(0, Number.MAX_SAFE_INTEGER, "bytes per second"), supported: true },
  // Not less than cpu-throttle-initial either: a rule between two parameters.
  "max-cpu-throttle": { ...integer(1, 99, "percent"), supported: true },
  "multifd-compression": { type: "enum", values: MULTIFD_COMPRESSIONS, ...no(NO_MULTIFD) },
  "multifd-zlib-level": { ...integer(0, 9), ...no(NO_MULTIFD) },
  "multifd-qatzip-level": { ...integer(1, 9), ...no(NO_MULTIFD) },
  "multifd-zstd-level": { ...integer(0, 20), ...no(NO_MULTIFD) },
  "block-bitmap-mapping": {
    type: "bitmap-mapping",
    ...no("it is for dirty-bitmaps, which the engine does not have"),
  },
  "x-vcpu-dirty-limit-period": { ...integer(1, 1000, "ms"), ...no(NO_DIRTY_LIMIT) },
  "vcpu-dirty-limit": { ...integer(1, Number.MAX_SAFE_INTEGER, "MB/s"), ...no(NO_DIRTY_LIMIT) },
  mode: {
    type: "enum",
    values: MIGRATION_MODES,
    ...no("the other modes replace a running QEMU process, and the engine has none"),
  },
  "zero-page-detection": { type: "enum", values: ZERO_PAGE_DETECTIONS, supported: true },
  "direct-io": { type: "boolean", supported: true },
  "x-rdma-chunk-size": {
    ...integer(2 ** 20, 2 ** 30, "bytes"),
    powerOfTwo: true,
    ...no("the engine has no RDMA transport"),
  },
  "cpr-exec-command": {
    type: "strings",
    ...no("it is for the mode cpr-exec, which the engine does not have"),
  },
};

/** The names, in the order of QEMU's schema. */
// Object.keys cannot know that the table has these keys and no other ones.
export const PARAMETER_NAMES = Object.keys(PARAMETERS) as readonly ParameterName[];

/** Whether QEMU 11.1 has a migration parameter of this name. */
export function isParameterName(name: string): name is keyof MigrationParameters {
  return Object.hasOwn(PARAMETERS, name);
}

function integer(
  minimum: number,
  maximum: number,
  unit?: ParameterUnit,
): Extract<ParameterType, { type: "integer" }> {
  return { type: "integer", minimum, maximum, ...(unit === undefined ? {} : { unit }) };
}

function no(reason: string): Extract<ParameterSupport, { supported: false }> {
  return { supported: false, reason };
}
