/**
 * The messages that a monitor sends: greeting, answers, events.
 *
 * @module
 */
import * as v from "valibot";
import { MachineError, printable } from "../errors/index.js";

/** Version of a QEMU, as it reports it. */
export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** Text of the distribution's package; often empty. */
  readonly package: string;
}

/** When QEMU emitted an event, by its host's clock. Both fields are -1 when QEMU could not read that clock. */
export interface QmpTimestamp {
  /** Seconds since 1970, UTC. */
  readonly seconds: number;
  /** 0 to 999999. */
  readonly microseconds: number;
}

/** First message of a connection. */
export interface Greeting {
  readonly version: QemuVersion;
  /** What can be enabled for the connection; `oob` at most, so far. */
  readonly capabilities: readonly string[];
}

/** A message after the greeting. An `id` of another type than ours is given as undefined. */
export type Message =
  | { readonly kind: "return"; readonly id: number | undefined; readonly value: unknown }
  | {
      readonly kind: "error";
      readonly id: number | undefined;
      readonly qmpClass: string;
      readonly desc: string;
    }
  | {
      readonly kind: "event";
      readonly name: string;
      readonly data: Readonly<Record<string, unknown>>;
      readonly timestamp: QmpTimestamp;
    };

/** Shape of QEMU's VersionInfo, in the greeting and as the answer to `query-version`. */
export const versionSchema = v.pipe(
  v.object({
    qemu: v.object({ major: v.number(), minor: v.number(), micro: v.number() }),
    package: v.string(),
  }),
  v.transform((info): QemuVersion => ({ ...info.qemu, package: info.package })),
);

const greetingSchema = v.object({
  QMP: v.object({ version: versionSchema, capabilities: v.array(v.string()) }),
});

const errorSchema = v.object({ error: v.object({ class: v.string(), desc: v.string() }) });

const eventSchema = v.object({
  event: v.string(),
  data: v.exactOptional(v.record(v.string(), v.unknown()), {}),
  timestamp: v.object({ seconds: v.number(), microseconds: v.number() }),
});

/**
 * Checks a value from the monitor; fields that the schema does not know are let through or left out as it says.
 *
 * @param what - names the value in the error's message: `The answer to query-status`
 * @throws MachineError `qmp` that names the first field that does not fit
 */
export function checkShape<T>(schema: v.GenericSchema<unknown, T>, value: unknown, what: string): T {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const issue = result.issues[0];
  const field = v.getDotPath(issue);
  const place = field === null ? "" : ` at "${printable(field)}"`;
  throw new MachineError("qmp", `${what} does not have the expected form${place}`, {
    ...(issue.expected === null ? {} : { expected: issue.expected }),
    actual: issue.received,
  });
}

/**
 * Reads the greeting.
 *
 * @throws MachineError `qmp` when the line is no greeting, with a hint for the peers that are commonly met instead
 */
export function parseGreeting(line: string, where: string): Greeting {
  const value = tryJson(line);
  if (value === undefined) throw notQmp(where, line);
  const { QMP: greeting } = checkShape(greetingSchema, value, `The greeting of ${where}`);
  return greeting;
}

/**
 * The error for a peer that is no QMP monitor.
 *
 * @param where - address, ready to print
 * @param text - beginning of what it sent
 */
export function notQmp(where: string, text: string): MachineError {
  const start = text.trimEnd();
  const hint =
    start === "{"
      ? "the monitor prints its JSON over several lines: start QEMU with -qmp, not with -qmp-pretty or pretty=on"
      : start.includes("monitor - type")
        ? "this is QEMU's human monitor: start QEMU with -qmp, not with -monitor"
        : "is this the address of something else than QEMU's -qmp?";
  return new MachineError("qmp", `${where} does not speak QMP`, { actual: start.slice(0, 60), hint });
}

/**
 * Reads a message after the greeting.
 *
 * Numbers become JavaScript numbers: integers beyond 2^53 lose their lowest bits. QEMU's counters of bytes stay below
 * that up to 8 PiB.
 *
 * @throws MachineError `qmp` when the line is no JSON or no message of QMP
 */
export function parseMessage(line: string): Message {
  const value = tryJson(line);
  if (typeof value !== "object" || value === null) {
    throw new MachineError("qmp", "The monitor sent a line that is no QMP message", {
      actual: line.slice(0, 60),
    });
  }
  if ("event" in value) {
    const { event, data, timestamp } = checkShape(eventSchema, value, "An event of the monitor");
    return { kind: "event", name: event, data, timestamp };
  }
  const id = "id" in value && typeof value.id === "number" ? value.id : undefined;
  if ("return" in value) return { kind: "return", id, value: value.return };
  const { error } = checkShape(errorSchema, value, "A message of the monitor");
  return { kind: "error", id, qmpClass: error.class, desc: error.desc };
}

function tryJson(line: string): unknown {
  try {
    return JSON.parse(line) as unknown;
  } catch {
    return undefined;
  }
}
