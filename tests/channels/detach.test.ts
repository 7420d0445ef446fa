import { closeSync, readSync } from "node:fs";

import { expect, test } from "vitest";

import { canDetachConnection, detachConnection, RangeSource } from "../../src/channels/index.js";
import { uffdCalls } from "../../src/hosts/userfaultfd/system.js";
import { localAddress } from "../../src/hosts/userfaultfd/local-address.js";
import { socketPair } from "../support/socket-pair.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

test.skipIf(process.platform !== "linux")(
  "a connection leaves its channel with what was read of it, and goes both ways still",
  async () => {
    const path = workDir.file("s");
    const { near, far } = await socketPair(path);
    await near.write(Buffer.from("abcdef"));
    const head = Buffer.alloc(2);
    expect(await far.read(head)).toBe(2);
    expect(canDetachConnection(far)).toBe(true);
    const connection = await detachConnection(far);
    expect(head.toString() + Buffer.from(connection!.unread).toString()).toBe("abcdef");
    expect(localAddress(uffdCalls(), connection!.fd)).toEqual({ kind: "unix", path });
    await near.write(Buffer.from("later"));
    const later = Buffer.alloc(8);
    expect(readSync(connection!.fd, later)).toBe(5);
    expect(later.toString("latin1", 0, 5)).toBe("later");
    closeSync(connection!.fd);
    // That was the last descriptor of it.
    expect(await near.read(later)).toBe(0);
  },
);

test("what is no socket stays as it is", async () => {
  const source = new RangeSource({ sizeBytes: 0, readAt: () => 0 }, 0);
  expect(canDetachConnection(source)).toBe(false);
  expect(await detachConnection(source)).toBeUndefined();
});
