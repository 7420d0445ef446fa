import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import { expect, test } from "vitest";

import { hasOpened } from "../../../src/session/clone/opened-file.js";
import { useWorkDir } from "../../support/work-dir.js";

const workDir = useWorkDir();

test.runIf(process.platform === "linux")(
  "who listens at a socket has that file open, and not the one that took its name over",
  async () => {
    const [socketPath, path] = [workDir.file("a name.qmp"), workDir.file("vm.ram")];
    fs.writeFileSync(path, "one");
    const stats = (): fs.BigIntStats => fs.statSync(path, { bigint: true });
    expect(hasOpened(socketPath, stats())).toBeUndefined();
    const server = net.createServer();
    await once(server.listen(socketPath), "listening");
    const fd = fs.openSync(path, "r");
    try {
      expect(hasOpened(socketPath, stats())).toBe(true);
      fs.writeFileSync(`${path}.new`, "one");
      fs.renameSync(`${path}.new`, path);
      expect(hasOpened(socketPath, stats())).toBe(false);
      expect(hasOpened(socketPath, fs.fstatSync(fd, { bigint: true }))).toBe(true);
    } finally {
      fs.closeSync(fd);
      server.close();
    }
  },
);
