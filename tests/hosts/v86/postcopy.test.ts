import { expect, test } from "vitest";

import { buildMultibootImage } from "../../../guests/multiboot.js";
import { SerialReport } from "../../../guests/serial-report.js";
import { SocketListener } from "../../../src/channels/index.js";
import { loadHostFromStream, type PostcopyListening } from "../../../src/engine/index.js";
import { V86Host } from "../../../src/hosts/v86/index.js";
import { describeWithUserfaultfd } from "../../support/describe-with-userfaultfd.js";
import { startV86Source } from "../../support/v86-source.js";
import { useWorkDir } from "../../support/work-dir.js";

const MIB = 1 << 20;
const MEMORY_BYTES = 32 * MIB;
const multiboot = buildMultibootImage({
  staticRange: { start: 4 * MIB, end: 28 * MIB },
  staticPagesPerPass: 64,
  dirtyRange: { start: 2 * MIB, end: 4 * MIB },
});

const workDir = useWorkDir();

describeWithUserfaultfd("a v86 whose guest comes by postcopy", () => {
  test("runs while pages are missing, and finds all of them right", async () => {
    const path = workDir.file("s");
    const listener = await SocketListener.listen({ path }, path);
    const source = await startV86Source({ path, memoryBytes: MEMORY_BYTES, multiboot });
    source.order({ kind: "run" });
    await expect.poll(() => source.report.passes.length).toBeGreaterThan(3);
    source.order({ kind: "bandwidth", bytesPerSecond: 4 * MIB });
    source.order({ kind: "migrate" });
    const channel = await listener.accept();
    await listener.close();

    const host = await V86Host.create({ memoryBytes: MEMORY_BYTES });
    const report = new SerialReport();
    host.onSerial((text) => report.push(text));
    let listening: PostcopyListening | undefined;
    const loaded = loadHostFromStream(host, channel, {
      returnPath: channel,
      postcopy: {
        onListening: (started) => (listening = started),
        onRun: () => host.run(),
      },
    });
    await expect.poll(() => report.passes.length).toBeGreaterThan(8);
    const meanwhile = await listening!.statistics();
    const arrived = meanwhile.pages.normal + meanwhile.pages.zero;
    const pages = host.ramBlocks().reduce((sum, { usedLength }) => sum + usedLength / 4096, 0);
    expect(arrived).toBeLessThan(pages / 2);
    source.order({ kind: "bandwidth", bytesPerSecond: 0 });
    const { postcopy } = await loaded;
    await source.sent();
    expect(postcopy?.requests).toBeGreaterThan(0);
    expect(postcopy?.blocktime.processorMs[0]).toBeGreaterThan(0);
    // Each page is checked again.
    const passes = (24 * MIB) / 4096 / 64;
    const before = report.passes.length;
    await expect.poll(() => report.passes.length).toBeGreaterThan(before + passes);
    expect(report.startId).toBeUndefined();
    expect(report.passes.at(-1)?.id).toBe(source.report.passes[0]?.id);
    await host.destroy();
  });
});
