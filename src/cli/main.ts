#!/usr/bin/env node
// No imports: each module of Node's that is imported by name costs a millisecond, and the version is to cost no more
// than starting Node. Everything else is loaded when it is known what is asked for.
const [, , first, ...others] = process.argv;
if ((first === "--version" || first === "-V") && others.length === 0) {
  const { readFileSync } = process.getBuiltinModule("node:fs");
  const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  process.stdout.write(`${manifest.version}\n`);
} else {
  const { runProgram } = await import("./program.js");
  await runProgram(process.argv);
}

export {};
