// Imports run downwards only (ARCHITECTURE.md). Each layer names what it may reach beside itself and src/errors/; a layer
// that is not listed may not be.
const layers = {
  errors: [],
  kernels: [],
  wire: [],
  memory: [],
  qapi: [],
  channels: [],
  engine: ["kernels", "wire", "memory", "qapi", "channels"],
  qmp: ["qapi"],
  snapshot: ["kernels", "wire", "memory", "channels", "engine"],
  session: ["wire", "memory", "qapi", "channels", "engine", "qmp", "snapshot"],
  map: ["kernels", "wire", "memory", "channels", "snapshot"],
  hosts: ["wire", "memory", "channels", "engine"],
  monitor: ["qapi"],
  vm: ["qapi", "channels", "engine", "hosts", "monitor"],
};
const names = Object.keys(layers).join("|");

const layerRules = Object.entries(layers).map(([name, below]) => ({
  name: `${name}-imports-downwards`,
  severity: "error",
  from: { path: `^src/${name}/` },
  to: { path: "^src/", pathNot: `^src/(${[name, "errors", ...below].join("|")})/` },
}));

const pure = "^src/(errors|wire|memory|kernels|qapi)/";

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    ...layerRules,
    {
      name: "every-folder-is-a-layer",
      comment: "src/cli/ is on top of all; src/index.ts is what most users import",
      severity: "error",
      from: { path: "^src/", pathNot: `^src/(index\\.ts$|(${names}|cli)/)` },
      to: {},
    },
    { name: "no-cycles", severity: "error", from: { path: "^src" }, to: { circular: true } },
    {
      name: "pure-layers-run-in-a-browser",
      comment: "errors, wire, memory, kernels and qapi hold no node: imports and no packages",
      severity: "error",
      from: { path: pure },
      to: { dependencyTypes: ["core", "npm", "npm-dev", "npm-optional", "npm-peer"] },
    },
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
