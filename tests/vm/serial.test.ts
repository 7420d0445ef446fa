import fs from "node:fs";
import net from "node:net";

import { expect, test } from "vitest";

import { MachineError } from "../../src/errors/index.js";
import { connectSerial, type GuestSerial } from "../../src/vm/serial.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** A guest that says what it is told to, and reads its port when it is told to. */
class TalkingGuest implements GuestSerial {
  readonly unread: number[] = [];
  readonly read: number[] = [];
  most = 0;
  #listener: ((byte: number) => void) | undefined;

  onByte(listener: (byte: number) => void): () => void {
    this.#listener = listener;
    return () => (this.#listener = undefined);
  }

  send(bytes: Uint8Array): void {
    this.unread.push(...bytes);
    this.most = Math.max(this.most, this.unread.length);
  }

  backlog(): number {
    return this.unread.length;
  }

  say(text: string): void {
    for (const byte of Buffer.from(text, "latin1")) this.#listener?.(byte);
  }

  takeAll(): void {
    this.read.push(...this.unread.splice(0));
  }
}

test("a file has what the guest said, in order, when the machine has ended", async () => {
  const path = workDir.file("log");
  for (const append of [false, false, true]) {
    const guest = new TalkingGuest();
    const connection = await connectSerial(guest, { kind: "file", path, append });
    await connection.ready;
    guest.say("one\n");
    await Promise.resolve();
    // A turn of the emulator is one piece, and it is there right after.
    expect(fs.readFileSync(path, "utf8").endsWith("one\n")).toBe(true);
    guest.say("\xfftwo");
    await connection.close();
    guest.say("nobody hears this");
  }
  expect(fs.readFileSync(path, "latin1")).toBe("one\n\xfftwoone\n\xfftwo");
  const nowhere = { kind: "file", path: workDir.file("no/log"), append: false } as const;
  await expect(connectSerial(new TalkingGuest(), nowhere)).rejects.toThrow(MachineError);
});

test.runIf(fs.existsSync("/dev/full"))(
  "a full disk costs what the guest says, and not the guest",
  async () => {
    const guest = new TalkingGuest();
    const connection = await connectSerial(guest, { kind: "file", path: "/dev/full", append: false });
    guest.say("one\n");
    // What is thrown where the guest's turn is written would reach nobody: it ends the test run.
    await Promise.resolve();
    guest.say("two");
    await connection.close();
  },
);

test("a client of a socket hears the guest and types, as fast as the guest reads", async () => {
  const guest = new TalkingGuest();
  const path = workDir.file("socket");
  const connection = await connectSerial(guest, { kind: "unix", path, wait: false });
  guest.say("lost: nobody is there");
  const client = net.connect({ path });
  await connection.ready;
  const heard = new Promise<string>((resolve) => client.once("data", (data) => resolve(data.toString())));
  guest.say("hello");
  expect(await heard).toBe("hello");
  const typed = Buffer.from(Array.from({ length: 50_000 }, (_, index) => index % 251));
  client.write(typed);
  while (guest.read.length < typed.length) {
    guest.takeAll();
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  expect(Buffer.from(guest.read).equals(typed)).toBe(true);
  expect(guest.most).toBeLessThanOrEqual(2 * 4096);
  const gone = new Promise((resolve) => client.once("close", resolve));
  await connection.close();
  await gone;
});

test("nothing stands behind null", async () => {
  const guest = new TalkingGuest();
  const connection = await connectSerial(guest, { kind: "null" });
  await connection.ready;
  guest.say("hello");
  await connection.close();
});
