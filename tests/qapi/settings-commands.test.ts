import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UsageError } from "../../src/errors/index.js";
import {
  CAPABILITY_NAMES,
  capabilitiesAnswer,
  DEFAULT_CAPABILITIES,
  DEFAULT_PARAMETERS,
  PARAMETER_NAMES,
  parametersAnswer,
  parseCapabilityChanges,
  parseParameterChanges,
} from "../../src/qapi/index.js";

describe("migrate-set-capabilities", () => {
  test("only what is named changes; of two the last counts", () => {
    const capabilities = [
      { capability: "events", state: true },
      { capability: "xbzrle", state: true },
      { capability: "xbzrle", state: false },
    ];
    expect(parseCapabilityChanges({ capabilities })).toEqual({ events: true, xbzrle: false });
    expect(parseCapabilityChanges({ capabilities: [] })).toEqual({});
  });

  test.each([
    [undefined, /argument of migrate-set-capabilities must be an object/],
    [[], /argument of migrate-set-capabilities must be an object/],
    [{}, /lacks its member capabilities/],
    [{ capabilities: {} }, /capabilities must be a list/],
    [{ capabilities: [], more: 1 }, /has no member more/],
    [{ capabilities: [null] }, /capabilities\[0\] must be an object/],
    [{ capabilities: [{ capability: "xbzrle" }] }, /capabilities\[0\] lacks its member state/],
    [{ capabilities: [{ capability: 1, state: true }] }, /capabilities\[0\]\.capability must be a string/],
    [
      { capabilities: [{ capability: "xbzrle", state: 1 }] },
      /state of the migration capability xbzrle must be/,
    ],
    [{ capabilities: [{ capability: "zero-blocks", state: true }] }, /no migration capability zero-blocks/],
    [{ capabilities: [{ capability: "\u001b[2J", state: true }] }, /no migration capability \\u\{1b\}\[2J/],
  ])("%j is refused", (args, message) => {
    expect(() => parseCapabilityChanges(args)).toThrow(UsageError);
    expect(() => parseCapabilityChanges(args)).toThrow(message);
  });
});

describe("migrate-set-parameters", () => {
  test("only what is named changes; null is an empty string for TLS", () => {
    const changes = { "max-bandwidth": 5, "tls-creds": null, mode: "normal", "cpr-exec-command": ["a"] };
    expect(parseParameterChanges(changes)).toEqual({ ...changes, "tls-creds": "" });
    expect(parseParameterChanges({})).toEqual({});
  });

  test.each([
    [null, /argument of migrate-set-parameters must be an object/],
    [{ nonsense: 1 }, /no migration parameter nonsense/],
    [JSON.parse('{"__proto__": 1}'), /no migration parameter __proto__/],
    [{ toString: 1 }, /no migration parameter toString/],
    [{ "max-bandwidth": "1" }, /max-bandwidth must be an integer .*found "1"\)/],
    [{ "max-bandwidth": null }, /max-bandwidth must be an integer/],
    [{ "block-bitmap-mapping": [{}] }, /block-bitmap-mapping\[0\] lacks its member node-name/],
    [
      { "block-bitmap-mapping": [{ "node-name": "n", alias: 1, bitmaps: [] }] },
      /block-bitmap-mapping\[0\]\.alias must be a string/,
    ],
    [
      {
        "block-bitmap-mapping": [
          { "node-name": "n", alias: "a", bitmaps: [{ name: "b", alias: "c", x: 1 }] },
        ],
      },
      /block-bitmap-mapping\[0\]\.bitmaps\[0\] has no member x/,
    ],
  ])("%j is refused", (args, message) => {
    expect(() => parseParameterChanges(args)).toThrow(UsageError);
    expect(() => parseParameterChanges(args)).toThrow(message);
  });
});

test("any JSON is read or refused with a UsageError", () => {
  const capability = fc.record({
    capability: fc.oneof(fc.constantFrom(...CAPABILITY_NAMES), fc.string()),
    state: fc.oneof(fc.boolean(), fc.jsonValue()),
  });
  const parameters = fc.dictionary(
    fc.oneof(fc.constantFrom(...PARAMETER_NAMES), fc.string()),
    fc.jsonValue(),
  );
  for (const [parse, args] of [
    [parseCapabilityChanges, fc.oneof(fc.record({ capabilities: fc.array(capability) }), fc.jsonValue())],
    [parseParameterChanges, fc.oneof(parameters, fc.jsonValue())],
  ] as const) {
    fc.assert(
      fc.property(args, (value) => {
        try {
          parse(value);
        } catch (error) {
          expect(error).toBeInstanceOf(UsageError);
        }
      }),
    );
  }
});

test("answers hold everything, in QEMU's order", () => {
  const answer = capabilitiesAnswer({ ...DEFAULT_CAPABILITIES, events: true });
  expect(answer.map(({ capability }) => capability)).toEqual(CAPABILITY_NAMES);
  expect(answer.filter(({ state }) => state)).toEqual([{ capability: "events", state: true }]);

  const backwards = Object.fromEntries(
    Object.entries(DEFAULT_PARAMETERS).reverse(),
  ) as typeof DEFAULT_PARAMETERS;
  const unset = PARAMETER_NAMES.filter((name) => name !== "block-bitmap-mapping");
  expect(Object.keys(parametersAnswer(backwards))).toEqual(unset);
  const set = parametersAnswer({ ...backwards, "block-bitmap-mapping": [] });
  expect(Object.keys(set)).toEqual(PARAMETER_NAMES);
});

test("an answer can be given back as arguments", () => {
  expect(parseParameterChanges(parametersAnswer(DEFAULT_PARAMETERS))).toEqual(DEFAULT_PARAMETERS);
  const capabilities = capabilitiesAnswer(DEFAULT_CAPABILITIES);
  expect(parseCapabilityChanges({ capabilities })).toEqual(DEFAULT_CAPABILITIES);
});
