import type { DescriptorSets } from "../channels/index.js";
import { MachineError, throwIfAborted } from "../errors/index.js";
import { type SharedMemoryOptions, V86Host } from "../hosts/v86/index.js";
import { Monitor } from "../monitor/index.js";
import { parseUuid } from "../qapi/index.js";
import type { Chardev, SocketChardev } from "./chardev.js";
import { loadImages, type VmImages } from "./images.js";
import { type MachineEnd, VirtualMachine } from "./machine.js";
import { connectSerial, type SerialConnection } from "./serial.js";
import { SocketServer } from "./socket-server.js";

/** What machine to run. */
export interface VmOptions {
  /** Bytes of RAM: a multiple of 128 KiB. */
  readonly memoryBytes: number;
  readonly name?: string;
  readonly uuid?: string;
  readonly images: VmImages;
  /** Whether it has ACPI's registers, by which its guest can sleep (S3); default false. */
  readonly acpi?: boolean;
  /** What stands behind the serial ports, up to four. */
  readonly serial?: readonly Chardev[];
  readonly monitors?: readonly SocketChardev[];
  /** Where the guest comes from: a migration URI, or `defer` for one that `migrate-incoming` names later. */
  readonly incoming?: string;
  /** Whether the guest starts by itself; default true. */
  readonly autostart?: boolean;
  /** Path of a file that is the guest's RAM, for `x-ignore-shared`. */
  readonly sharedMemoryPath?: string;
  readonly descriptorSets?: DescriptorSets;
  /** Ends the start. */
  readonly signal?: AbortSignal;
  /** Called with an address that is listened at, where the machine waits for a client or the system chose the port. */
  readonly onListening?: (address: string, waits: boolean) => void;
}

/** A machine that runs in this process. */
export interface RunningVm {
  readonly machine: VirtualMachine;
  /** Resolves when the machine is to end: by its monitor, a failed incoming migration, or {@link VirtualMachine.shutDown}. */
  readonly ended: Promise<MachineEnd>;
  /** Gives everything back: sockets are gone afterwards. */
  close(): Promise<void>;
}

/**
 * Makes a v86 machine with serial ports and monitors, and starts it.
 *
 * @throws UsageError; MachineError; CancelledError. Nothing is left of the machine then.
 */
export async function startVm(options: VmOptions): Promise<RunningVm> {
  const host = await createHost(options);
  const { name, uuid, descriptorSets } = options;
  const machine = new VirtualMachine(host, {
    memoryBytes: options.memoryBytes,
    incoming: options.incoming !== undefined,
    autostart: options.autostart ?? true,
    ...(name === undefined ? {} : { name }),
    ...(uuid === undefined ? {} : { uuid: uuid.toLowerCase() }),
    ...(descriptorSets === undefined ? {} : { descriptorSets }),
  });
  const connections = new Connections(machine, host);
  const close = async (): Promise<void> => {
    await machine.close();
    await host.stop();
    await connections.close();
    await host.destroy();
  };
  try {
    await connections.open(options);
    await unlessAborted(connections.ready, options.signal);
    await begin(machine, options);
  } catch (error) {
    await close();
    throw error;
  }
  return { machine, ended: machine.ended, close };
}

function createHost(options: VmOptions): Promise<V86Host> {
  const { memoryBytes, uuid, sharedMemoryPath, incoming, serial = [] } = options;
  const { multiboot, v86 } = loadImages(options.images, incoming === undefined);
  const use: SharedMemoryOptions["use"] = incoming === undefined ? "fill" : "take";
  return V86Host.create({
    memoryBytes,
    ...(multiboot === undefined ? {} : { multiboot }),
    ...(uuid === undefined ? {} : { uuid: parseUuid(uuid) }),
    ...(sharedMemoryPath === undefined ? {} : { sharedMemory: { path: sharedMemoryPath, use } }),
    v86: {
      ...v86,
      acpi: options.acpi ?? false,
      uart1: serial.length > 1,
      uart2: serial.length > 2,
      uart3: serial.length > 3,
    },
  });
}

async function begin(machine: VirtualMachine, { incoming, autostart = true }: VmOptions): Promise<void> {
  if (incoming === undefined) {
    if (autostart) await machine.cont();
  } else if (incoming !== "defer") {
    await machine.incoming({ uri: incoming }, true).catch((error: unknown) => {
      // What was asked for is possible, and went wrong: the same as when it goes wrong later.
      if (!(error instanceof MachineError)) throw error;
      machine.shutDown({ reason: "host-error", error });
    });
  }
}

/** Everything that leads into the machine from outside. */
class Connections {
  readonly #host: V86Host;
  readonly #monitor: Monitor;
  readonly #serial: SerialConnection[] = [];
  readonly #servers: SocketServer[] = [];
  readonly #awaited: Promise<void>[] = [];

  constructor(machine: VirtualMachine, host: V86Host) {
    this.#host = host;
    this.#monitor = new Monitor(machine);
  }

  /** Resolves when those clients are there that the machine was told to wait for. */
  get ready(): Promise<unknown> {
    return Promise.all(this.#awaited);
  }

  async open({ serial = [], monitors = [], onListening }: VmOptions): Promise<void> {
    for (const chardev of monitors) {
      const server = await SocketServer.listen(chardev, (socket) => this.#monitor.serve(socket));
      this.#servers.push(server);
      if (chardev.wait) this.#awaited.push(server.firstClient);
      if (isWorthSaying(chardev)) onListening?.(server.address, chardev.wait);
    }
    for (const [port, chardev] of serial.entries()) {
      const connection = await connectSerial(serialPort(this.#host, port), chardev);
      this.#serial.push(connection);
      if (!("wait" in chardev)) continue;
      if (chardev.wait) this.#awaited.push(connection.ready);
      if (isWorthSaying(chardev)) onListening?.(connection.address ?? "", chardev.wait);
    }
  }

  async close(): Promise<void> {
    await this.#monitor.close();
    await Promise.all([...this.#servers, ...this.#serial].map((connection) => connection.close()));
  }
}

async function unlessAborted(done: Promise<unknown>, signal = new AbortController().signal): Promise<void> {
  throwIfAborted(signal);
  const over = new AbortController();
  const aborted = new Promise((resolve) =>
    signal.addEventListener("abort", resolve, { signal: over.signal }),
  );
  await Promise.race([done, aborted]);
  over.abort();
  throwIfAborted(signal);
}

function isWorthSaying(chardev: SocketChardev): boolean {
  return chardev.wait || (chardev.kind === "tcp" && chardev.port === 0);
}

function serialPort(host: V86Host, port: number): Parameters<typeof connectSerial>[0] {
  return {
    onByte: (listener) => host.onSerialByte(listener, port),
    send: (bytes) => host.sendSerialBytes(bytes, port),
    backlog: () => host.serialBacklog(port),
  };
}
