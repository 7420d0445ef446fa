/**
 * One measured load or save by the engine, in a process of its own: `tsx engine-process.ts JSON`. It prints one line of JSON.
 *
 * @module
 */

import fs from "node:fs";

import { type DirectIo, OutputFile, ReadableFile } from "../src/channels/index.js";
import { loadHost, openMappedRam, saveHost } from "../src/engine/index.js";
import { adviseHugePages } from "../src/hosts/huge-pages.js";
import { MemoryHost } from "../tests/support/memory-host.js";

/** What is to be done. */
export interface EngineJob {
  readonly kind: "load" | "save";
  /** A mapped-ram file; a save loads it first, which is not measured. */
  readonly input: string;
  /** Where a save goes. */
  readonly output?: string;
  readonly channels?: number;
  readonly direct: boolean;
}

/** What it took. */
export interface EngineCost {
  readonly ms: number;
  /** `fsync` of the output. */
  readonly syncMs: number;
  readonly cpuMs: number;
  /** Highest resident memory, without the guest's and what Node and the loaded modules had before. */
  readonly extraBytes: number;
}

/** Mappings from this size on are the guest's: its blocks are in segments of up to 1 GiB. */
const GUEST_MAPPING_BYTES = 64 << 20;

async function work(job: EngineJob): Promise<EngineCost> {
  const directIo: DirectIo = job.direct ? "required" : "off";
  const input = ReadableFile.open(job.input, job.kind === "load" ? { directIo } : {});
  const host = new MemoryHost(openMappedRam(input), adviseHugePages);
  const channels = job.channels === undefined ? {} : { channels: job.channels };
  if (job.kind === "load") {
    const cost = await measure(() => loadHost(host, input, channels));
    return { ...cost, syncMs: 0 };
  }
  await loadHost(host, input, { channels: 4 });
  const output = OutputFile.create(job.output ?? "", { replace: true, directIo });
  const cost = await measure(() => saveHost(host, output, channels));
  const startMs = performance.now();
  await output.commit();
  return { ...cost, syncMs: performance.now() - startMs };
}

async function measure(run: () => Promise<unknown>): Promise<Omit<EngineCost, "syncMs">> {
  // Forgets the peak that loading the modules had.
  fs.writeFileSync("/proc/self/clear_refs", "5");
  const ownBefore = residentBytes("VmRSS") - guestResidentBytes();
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  await run();
  const ms = performance.now() - startMs;
  const { user, system } = process.cpuUsage(cpu);
  const extraBytes = residentBytes("VmHWM") - guestResidentBytes() - ownBefore;
  return { ms, cpuMs: (user + system) / 1000, extraBytes };
}

function residentBytes(field: "VmRSS" | "VmHWM"): number {
  const status = fs.readFileSync("/proc/self/status", "utf8");
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1024;
}

/** The guest's memory, as far as it is there: nothing else of this process is as large in one piece. */
function guestResidentBytes(): number {
  const maps = fs
    .readFileSync("/proc/self/smaps", "utf8")
    .matchAll(/^Size:\s+(\d+) kB(?:\n.*)*?\nRss:\s+(\d+) kB/gm);
  return [...maps].reduce((sum, [, size, resident]) => {
    return Number(size) * 1024 >= GUEST_MAPPING_BYTES ? sum + Number(resident) * 1024 : sum;
  }, 0);
}

const cost = await work(JSON.parse(process.argv[2] ?? "") as EngineJob);
process.stdout.write(`${JSON.stringify(cost)}\n`);
