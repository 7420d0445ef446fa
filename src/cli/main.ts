#!/usr/bin/env node
import { readFileSync } from "node:fs";
import process from "node:process";

// Everything else is loaded when it is known what is asked for: the version costs no more than starting Node.
const [, , first, ...others] = process.argv;
if ((first === "--version" || first === "-V") && others.length === 0) {
  const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  process.stdout.write(`${manifest.version}\n`);
} else {
  const { runProgram } = await import("./program.js");
  await runProgram(process.argv);
}
