import { asError } from "../errors/as-error.js";
import { isJsonObject, type JsonObject } from "../qapi/json-values.js";
import { withDoubleQuotes } from "./message-splitter.js";

/** QEMU's error classes that this monitor uses. */
export type MonitorErrorClass = "GenericError" | "CommandNotFound";

/** A command that is refused, with QEMU's class; thrown and caught inside the monitor. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly qmpClass: MonitorErrorClass;
  /** What the client gave the command to know its answer by. */
  readonly id: unknown;

  constructor(message: string, qmpClass: MonitorErrorClass = "GenericError", id?: unknown) {
    super(message);
    this.qmpClass = qmpClass;
    this.id = id;
  }
}

/** A command as a client sent it. */
export interface Request {
  readonly command: string;
  readonly arguments: JsonObject;
  /** Undefined when the client gave none. */
  readonly id: unknown;
}

/**
 * Reads a message.
 *
 * @throws CommandError in QEMU's words.
 */
export function parseRequest(text: string): Request {
  const message = parseJson(text);
  if (!isJsonObject(message)) throw new CommandError("QMP input must be a JSON object");
  const { id, execute, arguments: given, ...others } = message;
  const refuse = (problem: string): never => {
    throw new CommandError(`QMP input ${problem}`, "GenericError", id);
  };
  // Out-of-band execution is not offered, so its key is one of these too.
  const [unexpected] = Object.keys(others);
  if (unexpected !== undefined) refuse(`member '${unexpected}' is unexpected`);
  if (execute === undefined) refuse("lacks member 'execute'");
  if (typeof execute !== "string") return refuse("member 'execute' must be a string");
  if (given === undefined) return { command: execute, arguments: {}, id };
  if (!isJsonObject(given)) return refuse("member 'arguments' must be an object");
  return { command: execute, arguments: given, id };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (text.includes("'")) {
      try {
        return JSON.parse(withDoubleQuotes(text));
      } catch {
        // The first error is about what the client wrote.
      }
    }
    throw new CommandError(`JSON parse error, ${asError(error).message}`);
  }
}
