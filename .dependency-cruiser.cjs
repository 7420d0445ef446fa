// Imports run downwards only (ARCHITECTURE.md). Each layer names what it may not reach.
const layer = (name, forbidden) => ({
  name: `${name}-imports-downwards`,
  severity: "error",
  from: { path: `^src/${name}/` },
  to: { path: `^src/(${forbidden.join("|")})/` },
});

const pure = "^src/(errors|wire|memory)/";

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    { name: "no-cycles", severity: "error", from: { path: "^src" }, to: { circular: true } },
    {
      name: "pure-layers-run-in-a-browser",
      comment: "errors, wire and memory hold no node: imports and no packages",
      severity: "error",
      from: { path: pure },
      to: { dependencyTypes: ["core", "npm", "npm-dev", "npm-optional", "npm-peer"] },
    },
    layer("errors", [
      "wire",
      "memory",
      "channels",
      "engine",
      "qmp",
      "snapshot",
      "session",
      "hosts",
      "map",
      "cli",
    ]),
    layer("wire", ["memory", "channels", "engine", "qmp", "snapshot", "session", "hosts", "map", "cli"]),
    layer("memory", ["wire", "channels", "engine", "qmp", "snapshot", "session", "hosts", "map", "cli"]),
    layer("channels", ["wire", "memory", "engine", "qmp", "snapshot", "session", "hosts", "map", "cli"]),
    layer("engine", ["qmp", "snapshot", "session", "hosts", "map", "cli"]),
    layer("qmp", ["wire", "memory", "channels", "engine", "snapshot", "session", "hosts", "map", "cli"]),
    layer("snapshot", ["qmp", "session", "hosts", "map", "cli"]),
    layer("session", ["hosts", "map", "cli"]),
    layer("map", ["engine", "qmp", "session", "hosts", "cli"]),
    layer("hosts", ["qmp", "snapshot", "session", "map", "cli"]),
    {
      name: "incoming-and-outgoing-are-strangers",
      severity: "error",
      from: { path: "^src/engine/incoming/" },
      to: { path: "^src/engine/outgoing/" },
    },
    {
      name: "outgoing-and-incoming-are-strangers",
      severity: "error",
      from: { path: "^src/engine/outgoing/" },
      to: { path: "^src/engine/incoming/" },
    },
    {
      name: "shipped-code-needs-shipped-packages",
      severity: "error",
      from: { path: "^src", pathNot: "^src/hosts/v86/" },
      to: { dependencyTypes: ["npm-dev"] },
    },
    { name: "resolvable", severity: "error", from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true,
    doNotFollow: { path: "node_modules" },
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "types", "node", "default"],
    },
  },
};
