import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError, UsageError } from "../../src/errors/index.js";
import {
  ByteReader,
  decodeLibvirtSaveHeader,
  encodeLibvirtSaveHeader,
  findDomainName,
  isLibvirtSaveImage,
  LIBVIRT_FORMATS,
  LIBVIRT_HEADER_BYTES,
  type LibvirtSaveHeaderInput,
} from "../../src/wire/index.js";
import { corpus, corpusPath, describeWithCorpus } from "../support/corpus.js";

const example: LibvirtSaveHeaderInput = {
  byteOrder: "little",
  complete: true,
  version: 2,
  wasRunning: true,
  format: "sparse",
  xml: "<domain type='qemu'>\n  <name>a&amp;b</name>\n</domain>\n",
  cookie: "<cookie/>",
};
const decode = (bytes: Uint8Array, offset = 0) => decodeLibvirtSaveHeader(new ByteReader(bytes, offset));

describe("the header of libvirt save images", () => {
  const text = fc.string({ unit: "binary", maxLength: 60 }).map((value) => value.replaceAll("\0", " "));
  test("round trip, both byte orders", () => {
    const input = fc.record({
      byteOrder: fc.constantFrom("little" as const, "big" as const),
      complete: fc.boolean(),
      version: fc.constant(2),
      wasRunning: fc.boolean(),
      format: fc.constantFrom(...LIBVIRT_FORMATS),
      xml: text,
      cookie: text,
    });
    fc.assert(
      fc.property(input, fc.boolean(), (header, hasCookie) => {
        const { cookie, ...rest } = header;
        // Comparing the usual 64 KiB of padding again and again takes half a minute.
        const written = { ...rest, dataBytes: 600, ...(hasCookie ? { cookie } : {}) };
        const bytes = encodeLibvirtSaveHeader(written);
        const read = decode(bytes, 4096);
        expect(read).toMatchObject(written);
        expect(read.cookie).toBe(hasCookie ? cookie : undefined);
        expect(read.streamOffset).toBe(4096 + bytes.length);
        expect(read.dataBytes).toBe(bytes.length - LIBVIRT_HEADER_BYTES);
        expect(encodeLibvirtSaveHeader(read)).toEqual(bytes);
      }),
    );
  });

  test("what encoding refuses", () => {
    const encode = (change: Partial<LibvirtSaveHeaderInput>) => () =>
      encodeLibvirtSaveHeader({ ...example, ...change });
    expect(encode({ xml: "a\0b" })).toThrow(UsageError);
    expect(encode({ version: 1 })).toThrow(UsageError);
    expect(encode({ dataBytes: 20 })).toThrow(UsageError);
    expect(encode({ xml: "x".repeat(17 * 1024 * 1024) })).toThrow(UsageError);
  });

  test("damage has a code and a place", () => {
    const good = encodeLibvirtSaveHeader({ ...example, dataBytes: 200 });
    const changed = (at: number, ...values: number[]): Uint8Array => {
      const bytes = good.slice();
      bytes.set(values, at);
      return bytes;
    };
    const error = (bytes: Uint8Array): unknown => {
      try {
        return decode(bytes);
      } catch (thrown) {
        return thrown instanceof FormatError ? `${thrown.code} ${thrown.data.offset}` : thrown;
      }
    };
    expect(error(changed(0, 0x41))).toBe("malformed 0");
    expect(error(changed(16, 3))).toBe("unsupported 16");
    expect(error(changed(20, 0, 0, 0, 0))).toBe("limit-exceeded 20");
    expect(error(changed(20, 0, 0, 0, 0xff))).toBe("limit-exceeded 20");
    expect(error(changed(28, 7))).toBe("unsupported 28");
    expect(error(changed(32, 200))).toBe("malformed 32");
    expect(error(changed(92, 0xff))).toBe("malformed 92");
    expect(error(good.fill(0x20, 150).slice())).toBe(`malformed ${92 + example.xml.length + 1}`);
    expect(error(good.subarray(0, 91))).toBe("truncated 0");
    expect(error(good.subarray(0, 200))).toBe("truncated 92");
    expect(isLibvirtSaveImage(good)).toBe(true);
    expect(isLibvirtSaveImage(good.subarray(0, 15))).toBe(false);
  });

  test.each([
    ["<domain><name>vm</name></domain>", "vm"],
    [
      "<?xml version='1.0'?><!-- <name>no</name> -->\n<domain a='>'>\n <name> x &lt;&#65;&#x42; </name></domain>",
      "x <AB",
    ],
    ["<domain><metadata><name>inner</name></metadata><name>outer</name></domain>", "outer"],
    ["<domain><description><![CDATA[<name>no</name>]]></description><name>yes</name></domain>", "yes"],
    ["<domain><name>&bogus; &#xD800; &#x110000;</name></domain>", "&bogus; &#xD800; &#x110000;"],
    ["<domain><uuid/><name>v</name></domain>", "v"],
    ["<domain><name>a<b/></name></domain>", undefined],
    ["<domain><name/></domain>", undefined],
    ["<domain></domain><name>late</name>", undefined],
    ["<other><name>x</name></other>", undefined],
    ["<!DOCTYPE domain [<!ENTITY a 'x'>]><domain><name>&a;</name></domain>", undefined],
    ["<domain><name>x", undefined],
    ["<domain", undefined],
    ["", undefined],
  ])("the domain name in %j", (xml, name) => {
    expect(findDomainName(xml)).toBe(name);
  });

  test("any text gives a name or none, quickly", () => {
    const piece = fc.constantFrom(
      "<domain>",
      "<name>",
      "</name>",
      "<!--",
      "-->",
      "<![CDATA[",
      "<?",
      "'",
      ">",
      "<",
      "x",
      "&lt;",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
        expect(["string", "undefined"]).toContain(typeof findDomainName(pieces.join("")));
      }),
      { seed: 5 },
    );
    expect(findDomainName("<domain>" + "<a>".repeat(1_000_000))).toBeUndefined();
  });

  test("damaged headers: decoded, or a FormatError", () => {
    const good = encodeLibvirtSaveHeader({ ...example, dataBytes: 150 });
    const change = fc.tuple(fc.nat(good.length - 1), fc.nat(255));
    fc.assert(
      fc.property(fc.array(change, { maxLength: 5 }), fc.nat(good.length), (changes, length) => {
        const bytes = good.slice(0, length);
        for (const [at, value] of changes) if (at < length) bytes[at] = value;
        try {
          decode(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
        }
      }),
      { numRuns: 500, seed: 3 },
    );
  });
});

describeWithCorpus("libvirt images of the corpus", () => {
  test.each(corpus?.files.filter(({ container }) => container === "libvirt") ?? [])("$name", (facts) => {
    const bytes = new Uint8Array(readFileSync(corpusPath(facts)));
    const header = decode(bytes);
    expect(header).toMatchObject({ byteOrder: "little", complete: true, version: 2, wasRunning: false });
    expect(header.streamOffset).toBe(facts.streamOffset);
    expect(header.domainName).toMatch(/^lv\d+$/);
    expect(header.cookie).toMatch(/^<cookie>/);
    expect(facts.name).toBe(`lv113-${header.format}`);
    expect(encodeLibvirtSaveHeader(header)).toEqual(bytes.subarray(0, header.streamOffset));
  });
});
