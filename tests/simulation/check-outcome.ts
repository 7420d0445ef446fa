import { readPageBitmap } from "../../src/engine/mapped-ram/bitmaps.js";
import { openMappedRam } from "../../src/engine/mapped-ram/open.js";
import { isZero } from "../../src/memory/index.js";
import { countRecords } from "./count-records.js";
import type { Outcome } from "./run-scenario.js";
import { differenceOf } from "./sim-host.js";

/**
 * Says what of a run is not as it must be; an empty list when all is well.
 *
 * What must hold depends on what tells the two sides of each other. With a return path the source has the destination's
 * word: a migration that completed has loaded. Without one the source only knows that the channel took everything, so a
 * connection that breaks behind the last byte leaves a source that has completed and a destination that has not; a source
 * that is cancelled in this moment may leave two guests. QEMU's are no different. What still holds then is that whoever
 * loads has exactly the guest as it was when its devices were saved, and that nobody else has changed the source.
 */
export async function problemsOf(outcome: Outcome): Promise<string[]> {
  const problems: string[] = [];
  const must = (condition: boolean, problem: string): void => {
    if (!condition) problems.push(problem);
  };
  checkEndings(outcome, must);
  checkSource(outcome, must);
  checkDestination(outcome, must);
  checkCounters(outcome, must);
  checkPace(outcome, must);
  checkFile(outcome, must);
  if (problems.length === 0) await checkRecords(outcome, must);
  return problems;
}

/** What is waited for is broken off; a write into a file, its synchronization, and a guest that is to run are not. */
const CANCEL_MS = 500;

type Must = (condition: boolean, problem: string) => void;

/** Whether nothing and nobody stood in the way of this run. */
export function isUndisturbed({ scenario, disturbances, link, file }: Outcome): boolean {
  if (disturbances.length > 0 || link?.wasReset === true || file?.failed === true) return false;
  if (scenario.capabilities["validate-uuid"] || scenario.destination !== "other-uuid") {
    return scenario.destination === "same" || scenario.way !== "stream";
  }
  return true;
}

function completed({ migrated }: Outcome): boolean {
  return "value" in migrated;
}

function checkEndings(outcome: Outcome, must: Must): void {
  const { migrated, loaded, info, statuses, disturbances } = outcome;
  for (const end of [migrated, loaded]) {
    if (end === undefined || "value" in end) continue;
    for (let { error } = end; error !== undefined; error = error instanceof Error ? error.cause : undefined) {
      const text = error instanceof Error ? String(error) : JSON.stringify(error);
      must(!/ramport bug|simulation:(?! never)|TypeError|RangeError/.test(text), `bug: ${text}`);
    }
  }
  const last = statuses.at(-1);
  must(info.status === last, `info says ${info.status}, the last status was ${last}`);
  if ("value" in migrated) must(last === "completed", `run() resolved with ${last}`);
  else {
    const name = migrated.error instanceof Error ? migrated.error.name : "nothing";
    const expected = name === "CancelledError" ? "cancelled" : "failed";
    must(last === expected, `run() threw ${name}, and the status is ${last}`);
    must(last !== "cancelled" || disturbances.includes("cancel"), "cancelled by nobody");
    must((info["error-desc"] !== undefined) === (last === "failed"), `error-desc is ${info["error-desc"]}`);
  }
  if (isUndisturbed(outcome)) {
    must(completed(outcome), `nothing was in its way, and it ${String(last)}: ${describeError(migrated)}`);
  }
}

function describeError(end: Outcome["migrated"]): string {
  return "error" in end ? String(end.error) : "";
}

function checkSource(outcome: Outcome, must: Must): void {
  const { source, wish, ticksAfterwards, disturbances } = outcome;
  must(source.logsRunning === 0, "a dirty log was not stopped");
  must(source.throttledPercent === 0, "the guest is still slowed down");
  const now = source.state();
  for (const [block, model] of source.model.entries()) {
    must(
      Buffer.compare(model, now.memory[block]!) === 0,
      `somebody else wrote to the source's block ${block}`,
    );
  }
  if (completed(outcome)) {
    const byUser = disturbances.includes("resume");
    must(!source.running || byUser, "completed, and the source's guest runs");
  }
  if (!completed(outcome)) {
    must(source.running === (wish === "running"), `the guest should be ${wish}, and runs: ${source.running}`);
    if (source.running) must(ticksAfterwards > 0, "the guest runs and does nothing");
  }
}

function checkDestination(outcome: Outcome, must: Must): void {
  const { scenario, source, destination, loaded, wishAtSave } = outcome;
  const { capabilities } = scenario;
  if (loaded === undefined) return;
  if ("value" in loaded) {
    const shared = scenario.machine.blocks.map((block) => capabilities["x-ignore-shared"] && block.shared);
    const { saved } = source;
    const difference =
      saved === undefined ? "nothing was saved" : differenceOf(saved, destination.state(), shared);
    must(difference === undefined, `the destination is not what the source was: ${difference}`);
    must(loaded.value.wasRunning === (wishAtSave === "running"), `wasRunning is ${loaded.value.wasRunning}`);
    must(destination.loads === 1, `devices were loaded ${destination.loads} times`);
  }
  for (const [index, block] of scenario.destinationMachine.blocks.entries()) {
    if (!block.shared || !capabilities["x-ignore-shared"]) continue;
    const untouched = Buffer.compare(destination.model[index]!, destination.state().memory[index]!) === 0;
    must(untouched || scenario.destination === "other-ignore-shared", `shared block ${index} was written to`);
  }
  const returnPath = capabilities["return-path"];
  // It was told so: there is no way around it.
  if (returnPath && completed(outcome)) must(destination.loads === 1, "completed, and nobody has the guest");
  if (
    isUndisturbed(outcome) &&
    scenario.destination === "same" &&
    scenario.goodReads === Number.POSITIVE_INFINITY
  ) {
    must(
      "value" in loaded,
      `nothing was in its way, and the load failed: ${"error" in loaded ? String(loaded.error) : ""}`,
    );
  }
  const refused = scenario.destination.startsWith("other-");
  const uuidCompared =
    capabilities["validate-uuid"] &&
    scenario.machine.uuid !== undefined &&
    scenario.destination === "other-uuid";
  if (refused && (scenario.destination !== "other-uuid" || uuidCompared)) {
    must("error" in loaded, "a load that should have been refused was not");
    must(destination.loads === 0, "devices were loaded by a load that was to be refused");
    must(!returnPath || !completed(outcome), "completed, though the destination refused");
  }
}

function checkCounters(outcome: Outcome, must: Must): void {
  const { info, link, file, scenario } = outcome;
  const { machine, capabilities } = scenario;
  if (!completed(outcome) || info.ram === undefined) return;
  const { ram } = info;
  const seen = link?.forward.acceptedBytes ?? file?.writtenBytes;
  must(ram.transferred === seen, `transferred is ${ram.transferred}, and ${seen} bytes were seen`);
  must(ram.remaining === 0, `${ram.remaining} bytes remain`);
  const pages = machine.blocks
    .filter((block) => !(capabilities["x-ignore-shared"] && block.shared))
    .reduce((sum, block) => sum + block.pages, 0);
  must(ram.total === pages * machine.pageSize, `total is ${ram.total}`);
  const { normal = 0, duplicate = 0, "precopy-bytes": precopy = 0, "downtime-bytes": downtime = 0 } = ram;
  must(normal + duplicate >= pages, `only ${normal + duplicate} of ${pages} pages`);
  must(precopy + downtime === ram.transferred, "precopy and downtime do not add up");
}

/** Whether it kept to its limits of bandwidth and downtime, says how long the guest stood still, and ends when it has to. */
function checkPace(outcome: Outcome, must: Must): void {
  const { scenario, stop, cancelledAtMs, endedAtMs, info } = outcome;
  const { machine, parameters } = scenario;
  if (cancelledAtMs !== undefined) {
    const ms = endedAtMs - cancelledAtMs;
    must(ms <= CANCEL_MS, `it ended ${ms} ms after it was cancelled`);
  }
  if (stop === undefined) return;
  if (info.downtime !== undefined) {
    const ms = endedAtMs - stop.atMs;
    const most = ms + machine.stopMs + 1;
    must(info.downtime >= ms - 1 && info.downtime <= most, `downtime is ${info.downtime}, it was ${ms} ms`);
  }
  if (outcome.parametersChanged || !scenario.live) return;
  const limit = parameters["max-bandwidth"] / 1000;
  if (limit > 0) {
    const most = limit * (stop.atMs + 100) + 2 * machine.pageSize + 8192;
    must(stop.sentBytes <= most, `${stop.sentBytes} bytes went in ${stop.atMs} ms, the limit was ${most}`);
  }
  const { remaining = 0, mbps = 0 } = stop.info.ram ?? {};
  const bytesPerMs = (parameters["avail-switchover-bandwidth"] || (mbps * 1_000_000) / 8) / 1000;
  const ms = remaining === 0 ? 0 : remaining / bytesPerMs;
  const allowedMs = parameters["downtime-limit"];
  must(
    ms <= allowedMs * 1.001,
    `the guest was stopped with ${ms} ms of memory left, ${allowedMs} were allowed`,
  );
}

function checkFile(outcome: Outcome, must: Must): void {
  const { file, scenario } = outcome;
  if (file === undefined || !completed(outcome)) return;
  must(file.synced, "completed, and the file was not synchronized");
  must(!file.failed, "completed, and writing had failed");
  if (scenario.way !== "mapped-ram") return;
  file.readsLeft = Number.POSITIVE_INFINITY;
  const skeleton = openMappedRam(file);
  const tailBytes = scenario.devices.reduce((sum, { length }) => sum + length + 1000, 3000);
  const pagesEnd = skeleton.blocks.reduce((end, { mapped, usedLength }) => {
    return mapped === undefined || mapped.pagesOffset === 0
      ? end
      : Math.max(end, mapped.pagesOffset + usedLength);
  }, 1000);
  must(file.sizeBytes <= pagesEnd + tailBytes, `the file has ${file.sizeBytes} bytes`);
  for (const block of skeleton.blocks) {
    const { mapped } = block;
    if (mapped === undefined || mapped.pagesOffset === 0) continue;
    for (const { start, end } of readPageBitmap(file, block).clearRuns()) {
      const bytes = new Uint8Array((end - start) * mapped.pageSize);
      file.readAt(bytes, mapped.pagesOffset + start * mapped.pageSize);
      must(isZero(bytes, 0, bytes.length), `pages of ${block.name} from ${start} are clear and not zero`);
    }
  }
}

/** Holds the counters to what an independent walk over the stream counts; in one run of four, since it takes as long. */
async function checkRecords(outcome: Outcome, must: Must): Promise<void> {
  const { info, link, scenario, xbzrle } = outcome;
  if (link === undefined || !completed(outcome) || info.ram === undefined || scenario.seed % 4 !== 0) return;
  if (link.wasReset) return;
  const counted = await countRecords(link.forward.accepted, scenario.machine.pageSize);
  must(counted.normal === info.ram.normal, `normal is ${info.ram.normal}, the stream has ${counted.normal}`);
  must(
    counted.zero === info.ram.duplicate,
    `duplicate is ${info.ram.duplicate}, the stream has ${counted.zero}`,
  );
  // Pages that were the same again are counted, and not sent.
  const deltas = xbzrle === undefined ? 0 : xbzrle.stats.pages - xbzrle.stats.overflow;
  must(counted.xbzrle <= deltas, `xbzrle pages are ${deltas}, the stream has ${counted.xbzrle}`);
}
