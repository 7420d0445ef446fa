import { configure } from "@logtape/logtape";

/** Sends what the library logs to standard error, a line each. */
export async function logToStandardError(): Promise<void> {
  await configure({
    sinks: {
      stderr: (record) => {
        const text = record.message
          .map((part) => (typeof part === "string" ? part : JSON.stringify(part)))
          .join("");
        process.stderr.write(`[${record.category.slice(1).join(" ")}] ${text}\n`);
      },
    },
    loggers: [
      { category: ["ramport"], lowestLevel: "debug", sinks: ["stderr"] },
      { category: ["logtape", "meta"], lowestLevel: "error", sinks: ["stderr"] },
    ],
  });
}
