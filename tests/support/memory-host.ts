import type { MappedRamFile, DeviceState, HostRamBlock, MigrationHost } from "../../src/engine/index.js";
import { ShadowDirtyLog } from "../../src/engine/index.js";

const SEGMENT_BYTES = 1 << 30;
const WASM_PAGE_BYTES = 64 << 10;
const PAGE = 4096;

/** The global `WebAssembly`, as far as it is used: its types come with a browser's library, not with Node's. */
interface WasmGlobal {
  readonly Memory: new (limits: { readonly initial: number; readonly maximum: number }) => {
    readonly buffer: ArrayBuffer;
  };
}

/** A machine that is nothing but the memory of a file's, in WebAssembly: where v86 has it. It takes whatever devices come. */
export class MemoryHost implements MigrationHost {
  readonly machine: string;
  readonly pageSize = PAGE;
  readonly running = false;
  readonly runCount = 0;
  /** Of all blocks. */
  readonly lengthBytes: number;
  readonly #blocks: readonly HostRamBlock[];
  #devices: readonly DeviceState[] = [];

  /** @param advise Called with each segment before anything touches it. */
  constructor({ configuration, blocks, totalBytes }: MappedRamFile, advise: (memory: Uint8Array) => unknown) {
    this.machine = configuration.machine;
    this.lengthBytes = totalBytes;
    this.#blocks = blocks.map(({ name, usedLength }) => ({
      name,
      usedLength,
      segments: allocate(usedLength, advise),
    }));
  }

  ramBlocks(): readonly HostRamBlock[] {
    return this.#blocks;
  }

  run(): Promise<void> {
    return Promise.reject(new Error("a memory runs nothing"));
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }

  startDirtyLog(): ShadowDirtyLog {
    return new ShadowDirtyLog(() => this.#blocks, PAGE);
  }

  saveDevices(): readonly DeviceState[] {
    return this.#devices;
  }

  checkDevices(): void {
    // Whatever they are.
  }

  loadDevices(devices: readonly DeviceState[]): void {
    // Read back they have no fields: they go out as bytes.
    this.#devices = devices.map((device) => ({
      ...device,
      fields: [{ name: "state", type: "buffer", size: device.payload.length }],
    }));
  }
}

function allocate(length: number, advise: (memory: Uint8Array) => unknown): Uint8Array[] {
  const { WebAssembly: wasm } = globalThis as unknown as { readonly WebAssembly: WasmGlobal };
  const segments: Uint8Array[] = [];
  for (let done = 0; done < length; done += SEGMENT_BYTES) {
    const bytes = Math.min(SEGMENT_BYTES, length - done);
    const pages = Math.ceil(bytes / WASM_PAGE_BYTES);
    const { buffer } = new wasm.Memory({ initial: pages, maximum: pages });
    const segment = new Uint8Array(buffer, 0, bytes);
    if (bytes >= 2 << 20) advise(segment);
    segments.push(segment);
  }
  return segments;
}
