import fs from "node:fs";
import os from "node:os";
import path from "node:path";

/** A temporary folder that goes away with the process, however that ends, unless it is killed outright. */
export class Workspace {
  readonly path = fs.mkdtempSync(path.join(os.tmpdir(), "ramport-demo-"));
  readonly #remove = (): void => fs.rmSync(this.path, { recursive: true, force: true });

  constructor() {
    process.on("exit", this.#remove);
  }

  file(name: string): string {
    return path.join(this.path, name);
  }

  remove(): void {
    process.off("exit", this.#remove);
    this.#remove();
  }
}
