/**
 * The scenarios of the corpus: which machine, which way of saving.
 *
 * @module
 */

import type { QemuVersion } from "../tests/support/find-qemu.js";

/** What the migration goes to. */
export type Transport =
  /** `exec:cat > FILE`: any QEMU. */
  | "exec"
  /** `file:FILE`: QEMU 8.2 and newer. */
  | "file"
  /** A socket whose other end writes the file and keeps the return path open, which postcopy-ram asks for. */
  | "socket";

/** One file of the corpus. */
export interface Scenario {
  /** Name of the file, without its ending. */
  readonly name: string;
  readonly qemu: QemuVersion;
  /** Value of `-machine`. */
  readonly machine: string;
  /** RAM in KiB; 16 MiB when left out. */
  readonly memoryKiB?: number;
  /** More arguments. `DIR` becomes a folder of the scenario's own. */
  readonly args?: readonly string[];
  /**
   * What runs in the guest: nothing of ours (`firmware`, where there is one), or the workload of `guests/`, which keeps
   * rewriting pages.
   */
  readonly guest: "firmware" | "workload";
  /** Whether the guest runs while it is saved: it then runs on for this many rounds over memory at least. */
  readonly liveRounds?: number;
  readonly transport: Transport;
  /** Where in the file the stream starts (transport `file`). */
  readonly offset?: number;
  readonly capabilities?: readonly string[];
  readonly parameters?: Readonly<Record<string, number | boolean | string>>;
  /** Streams of machine types of QEMU 2.3 and older do not say the machine, which no command of QEMU's tells. */
  readonly withoutConfiguration?: true;
  /** What has to be given here and is not everywhere: then the scenario is left out when QEMU refuses it. */
  readonly needs?: string;
}

const MAPPED = ["mapped-ram"];
const FIRMWARE = { guest: "firmware", transport: "exec" } as const;
const WORKLOAD = { guest: "workload", transport: "file" } as const;
/** Slow enough that the guest rewrites pages in each round. */
const SLOW = { "max-bandwidth": 8 << 20, "downtime-limit": 1 } as const;
const UUID = "5a0f3c6e-9d1b-4a52-8e77-0c2b6d41f9a3";

const memoryBackend = (id: string, size: string): readonly string[] => [
  "-object",
  `memory-backend-ram,id=${id},size=${size}`,
];

/** All scenarios. */
export const SCENARIOS: readonly Scenario[] = [
  // Classic streams.
  { name: "q72-pc-exec", qemu: "7.2", machine: "pc", guest: "workload", transport: "exec" },
  { name: "q100-pc-exec", qemu: "10.0", machine: "pc", guest: "workload", transport: "exec" },
  { name: "q100-pc-file", qemu: "10.0", machine: "pc", ...WORKLOAD },
  { name: "q111-pc-file-offset", qemu: "11.1", machine: "pc", ...WORKLOAD, offset: 77_824 },
  { name: "q100-pc-file-live", qemu: "10.0", machine: "pc", ...WORKLOAD, liveRounds: 3, parameters: SLOW },
  {
    ...{ name: "q72-pc-xbzrle-live", qemu: "7.2", machine: "pc", guest: "workload", transport: "exec" },
    ...{ liveRounds: 4, capabilities: ["xbzrle"], parameters: { ...SLOW, "xbzrle-cache-size": 32 << 20 } },
  },
  {
    ...{ name: "q72-pc-compress-live", qemu: "7.2", machine: "pc", guest: "workload", transport: "exec" },
    ...{ liveRounds: 3, capabilities: ["compress"], parameters: SLOW },
  },
  {
    ...{ name: "q100-pc-ignore-shared", qemu: "10.0", machine: "pc,memory-backend=pc.ram", ...WORKLOAD },
    args: [
      "-object",
      "memory-backend-file,id=pc.ram,size=16M,mem-path=DIR/ram,share=on,x-use-canonical-path-for-ramblock-id=off",
    ],
    capabilities: ["x-ignore-shared"],
  },
  {
    ...{ name: "q72-pc-validate-uuid", qemu: "7.2", machine: "pc", ...FIRMWARE },
    ...{ args: ["-uuid", UUID], capabilities: ["validate-uuid"] },
  },
  {
    ...{ name: "q100-pc-background-snapshot", qemu: "10.0", machine: "pc", ...WORKLOAD },
    ...{
      capabilities: ["background-snapshot"],
      needs: "a kernel that lets this user protect memory (userfaultfd)",
    },
  },
  {
    ...{
      name: "q100-pc-postcopy-advise",
      qemu: "10.0",
      machine: "pc",
      guest: "workload",
      transport: "socket",
    },
    capabilities: ["postcopy-ram"],
  },
  // mapped-ram.
  { name: "q100-mr-pc", qemu: "10.0", machine: "pc", ...WORKLOAD, capabilities: MAPPED },
  { name: "q111-mr-pc", qemu: "11.1", machine: "pc", ...WORKLOAD, capabilities: MAPPED },
  {
    ...{ name: "q100-mr-pc-live", qemu: "10.0", machine: "pc", ...WORKLOAD },
    ...{ liveRounds: 3, capabilities: MAPPED, parameters: SLOW },
  },
  {
    ...{ name: "q100-mr-pc-multifd", qemu: "10.0", machine: "pc", ...WORKLOAD },
    ...{ capabilities: ["mapped-ram", "multifd"], parameters: { "multifd-channels": 3 } },
  },
  {
    ...{ name: "q100-mr-pc-direct-io", qemu: "10.0", machine: "pc", ...WORKLOAD },
    capabilities: ["mapped-ram", "multifd"],
    parameters: { "multifd-channels": 2, "direct-io": true },
    needs: "a file system with O_DIRECT under the output folder",
  },
  {
    ...{ name: "q100-mr-pc-offset", qemu: "10.0", machine: "pc", ...WORKLOAD },
    ...{ offset: 12_288, capabilities: MAPPED },
  },
  {
    ...{ name: "q100-mr-pc-odd-size", qemu: "10.0", machine: "pc", memoryKiB: 16_392, ...WORKLOAD },
    capabilities: MAPPED,
  },
  {
    ...{ name: "q100-mr-pc-no-footers", qemu: "10.0", machine: "pc", ...WORKLOAD, capabilities: MAPPED },
    args: ["-global", "migration.send-section-footer=off"],
  },
  // Other machines and devices.
  {
    ...{ name: "q100-mr-q35-vga-e1000", qemu: "10.0", machine: "q35", ...WORKLOAD },
    ...{ args: ["-device", "VGA,vgamem_mb=4", "-device", "e1000"], capabilities: MAPPED },
  },
  { name: "q72-q35-exec", qemu: "7.2", machine: "q35", ...FIRMWARE },
  { name: "q72-isapc", qemu: "7.2", machine: "isapc", ...FIRMWARE },
  {
    name: "q111-mr-microvm",
    qemu: "11.1",
    machine: "microvm",
    ...FIRMWARE,
    transport: "file",
    capabilities: MAPPED,
  },
  { name: "q100-none", qemu: "10.0", machine: "none", ...FIRMWARE },
  {
    ...{ name: "q111-pc-virtio", qemu: "11.1", machine: "pc", ...WORKLOAD },
    args: [
      ...["-device", "virtio-rng-pci", "-device", "virtio-serial-pci", "-device", "virtio-balloon-pci"],
      ...[
        "-device",
        "virtio-net-pci",
        "-blockdev",
        "null-co,node-name=d0",
        "-device",
        "virtio-blk-pci,drive=d0",
      ],
    ],
  },
  {
    ...{ name: "q100-mr-q35-virtio-mem", qemu: "10.0", machine: "q35", ...WORKLOAD, capabilities: MAPPED },
    args: [
      ...["-m", "maxmem=1G,slots=1", ...memoryBackend("vm0", "32M")],
      ...["-device", "virtio-mem-pci,memdev=vm0,requested-size=8M"],
    ],
  },
  {
    ...{ name: "q111-q35-numa-dimm", qemu: "11.1", machine: "q35", memoryKiB: 32_768, ...WORKLOAD },
    args: [
      ...["-m", "maxmem=1G,slots=2", ...memoryBackend("n0", "16M"), ...memoryBackend("n1", "16M")],
      ...["-numa", "node,memdev=n0", "-numa", "node,memdev=n1"],
      ...[...memoryBackend("d0", "32M"), "-device", "pc-dimm,id=dimm0,memdev=d0"],
    ],
  },
  // Machine types without a configuration section and footers, the older two without a description.
  { name: "q72-pc-2.3", qemu: "7.2", machine: "pc-i440fx-2.3", ...FIRMWARE, withoutConfiguration: true },
  { name: "q72-pc-2.2", qemu: "7.2", machine: "pc-i440fx-2.2", ...FIRMWARE, withoutConfiguration: true },
  { name: "q72-pc-2.0", qemu: "7.2", machine: "pc-i440fx-2.0", ...FIRMWARE, withoutConfiguration: true },
  {
    ...{
      name: "q72-pc-2.0-xbzrle-live",
      qemu: "7.2",
      machine: "pc-i440fx-2.0",
      guest: "workload",
      transport: "exec",
    },
    ...{ liveRounds: 3, capabilities: ["xbzrle"], parameters: SLOW, withoutConfiguration: true },
  },
];
