import fs from "node:fs";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

import { getLogger } from "@logtape/logtape";

import { systemError } from "../channels/index.js";
import type { Chardev } from "./chardev.js";
import { SocketServer } from "./socket-server.js";

const logger = getLogger(["ramport", "vm"]);

/** A guest's serial port, as what stands behind it sees it. */
export interface GuestSerial {
  /** Calls the listener for each byte that the guest sends; returns what ends that. */
  onByte(listener: (byte: number) => void): () => void;
  send(bytes: Uint8Array): void;
  /** Bytes that were sent and not read by the guest. */
  backlog(): number;
}

/** A chardev in use. */
export interface SerialConnection {
  /** Resolves when the first client has come; at once where there are no clients. */
  readonly ready: Promise<void>;
  /** Where a socket listens. */
  readonly address?: string;
  /** Writes what the guest has sent, and ends it. */
  close(): Promise<void>;
}

/** A guest that does not read its port gets no more than this. */
const MAX_BACKLOG_BYTES = 4096;
const BACKLOG_PAUSE_MS = 10;
const CTRL_C = 0x03;
/** What a client that does not read is kept; the rest is lost, as on a line without anybody at its other end. */
const MAX_UNREAD_BYTES = 1 << 20;

/**
 * Connects a serial port with a chardev.
 *
 * @throws UsageError; MachineError `io`.
 */
export async function connectSerial(serial: GuestSerial, chardev: Chardev): Promise<SerialConnection> {
  switch (chardev.kind) {
    case "null":
      return { ready: Promise.resolve(), close: () => Promise.resolve() };
    case "stdio":
      return connectStdio(serial);
    case "file":
      return connectFile(serial, chardev.path, chardev.append);
    case "unix":
    case "tcp": {
      const server = await SocketServer.listen(chardev, (socket) => receive(serial, socket));
      const output = collect(serial, (bytes) => {
        const { client } = server;
        if (client?.writable === true && client.writableLength < MAX_UNREAD_BYTES) client.write(bytes);
      });
      const close = (): Promise<void> => {
        output.end();
        return server.close();
      };
      return { ready: server.firstClient, address: server.address, close };
    }
  }
}

function connectStdio(serial: GuestSerial): SerialConnection {
  const output = collect(serial, (bytes) => process.stdout.write(bytes));
  const { stdin } = process;
  // A terminal is the guest's own: it gets every key, but for Ctrl-C.
  if (stdin.isTTY) stdin.setRawMode(true);
  void receive(serial, stdin.isTTY ? interruptible(stdin) : stdin);
  const close = (): Promise<void> => {
    output.end();
    if (stdin.isTTY) stdin.setRawMode(false);
    stdin.destroy();
    return new Promise((resolve) => process.stdout.write("", () => resolve()));
  };
  return { ready: Promise.resolve(), close };
}

function connectFile(serial: GuestSerial, path: string, append: boolean): SerialConnection {
  const open = (): number => {
    try {
      return fs.openSync(path, append ? "a" : "w");
    } catch (cause) {
      throw systemError("Opening", path, cause);
    }
  };
  const fd = open();
  let lost = false;
  const output = collect(serial, (bytes) => {
    try {
      for (let done = 0; done < bytes.length;) done += fs.writeSync(fd, bytes, done);
    } catch (error) {
      // A full disk costs what the guest says, as in QEMU, and not the guest.
      if (!lost) logger.warn("what the guest says cannot be written to {path}: {error}", { path, error });
      lost = true;
    }
  });
  const close = (): Promise<void> => {
    output.end();
    fs.closeSync(fd);
    return Promise.resolve();
  };
  return { ready: Promise.resolve(), close };
}

/** Gathers what the guest sends in one turn of its emulator, and writes it in one piece right after. */
function collect(serial: GuestSerial, write: (bytes: Uint8Array) => void): { end(): void } {
  let bytes: number[] = [];
  const flush = (): void => {
    if (bytes.length === 0) return;
    const piece = Uint8Array.from(bytes);
    bytes = [];
    write(piece);
  };
  const stop = serial.onByte((byte) => {
    if (bytes.push(byte) === 1) queueMicrotask(flush);
  });
  return {
    end: () => {
      stop();
      flush();
    },
  };
}

/** A raw terminal makes no signal of Ctrl-C, so this does. */
async function* interruptible(terminal: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  for await (const chunk of terminal) {
    if (chunk.includes(CTRL_C)) process.kill(process.pid, "SIGINT");
    else yield chunk;
  }
}

/** Hands on what a client types, as fast as the guest takes it. */
async function receive(serial: GuestSerial, stream: AsyncIterable<Buffer>): Promise<void> {
  try {
    for await (const chunk of stream) {
      for (let at = 0; at < chunk.length; at += MAX_BACKLOG_BYTES) {
        while (serial.backlog() >= MAX_BACKLOG_BYTES)
          await sleep(BACKLOG_PAUSE_MS, undefined, { ref: false });
        serial.send(chunk.subarray(at, at + MAX_BACKLOG_BYTES));
      }
    }
  } catch {
    // A client that breaks off sends nothing more.
  }
}
