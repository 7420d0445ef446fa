import { configure, reset, type LogRecord } from "@logtape/logtape";
import { afterEach, expect, test } from "vitest";
import { FakeMonitor, ok } from "./fake-monitor.js";

afterEach(reset);

test("commands and events are logged by name, without what they carry", async () => {
  const records: LogRecord[] = [];
  await configure({
    sinks: { records: (record) => records.push(record) },
    loggers: [
      { category: ["ramport", "qmp"], lowestLevel: "debug", sinks: ["records"] },
      { category: ["logtape", "meta"], lowestLevel: "error", sinks: [] },
    ],
  });
  const monitor = await FakeMonitor.start((request, socket) => setTimeout(ok, 20, request, socket));
  const client = await monitor.connect();
  monitor.sendEvent("NOVEL", { secret: "hush" });
  await client.executeRaw("set_password", { password: "hush" });
  await expect(client.execute("stop", undefined, { timeoutMs: 0 })).rejects.toMatchObject({
    code: "timeout",
  });
  await client.execute("cont");
  await client.close();
  await monitor.stop();
  const text = records.map((record) => record.message.join("")).join("\n");
  expect(text).toMatch(/set_password.* sent as 2[^]*event .*NOVEL/);
  expect(text).toMatch(/answer to 3, for which nobody waits/);
  expect(JSON.stringify(records)).not.toContain("hush");
  expect(new Set(records.map((record) => record.level))).toEqual(new Set(["debug"]));
});
