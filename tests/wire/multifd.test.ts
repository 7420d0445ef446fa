import fc from "fast-check";
import { describe, expect, test } from "vitest";

import {
  ByteWriter,
  decodeMultifdHello,
  decodeMultifdPacket,
  decodeMultifdPlaces,
  encodeMultifdHello,
  encodeMultifdPacket,
  MULTIFD_HELLO_BYTES,
  type MultifdPacket,
  multifdPacketHeadBytes,
  multifdPagesPerPacket,
} from "../../src/wire/index.js";

const PAGE = 4096;
const ROOM = multifdPagesPerPacket(PAGE);
const USED_LENGTH = 64 << 20;

function head(packet: Partial<MultifdPacket> & { readonly places?: readonly number[] } = {}): Uint8Array {
  const { places = [], ...fields } = packet;
  const bytes = new Uint8Array(multifdPacketHeadBytes(PAGE));
  const whole: MultifdPacket = {
    sync: false,
    compression: "none",
    normalPages: 0,
    zeroPages: 0,
    payloadBytes: 0,
    packetNumber: 0,
    block: "",
    ...fields,
  };
  encodeMultifdPacket(bytes, whole, Float64Array.from(places), PAGE);
  return bytes;
}

function placesOf(bytes: Uint8Array): number[] {
  const packet = decodeMultifdPacket(bytes, PAGE);
  const places = new Float64Array(ROOM);
  decodeMultifdPlaces(bytes, packet, { usedLength: USED_LENGTH, pageSize: PAGE }, places);
  return [...places.subarray(0, packet.normalPages + packet.zeroPages)];
}

describe("what an extra connection begins with", () => {
  test("is as long as QEMU's, with magic, version, uuid and number in their places", () => {
    const uuid = Uint8Array.from({ length: 16 }, (_, index) => index + 1);
    const writer = new ByteWriter();
    encodeMultifdHello(writer, { uuid, id: 7 });
    const bytes = writer.finish();
    expect(bytes).toHaveLength(MULTIFD_HELLO_BYTES);
    expect(Buffer.from(bytes.subarray(0, 25)).toString("hex")).toBe(
      "1122334400000001" + "0102030405060708090a0b0c0d0e0f10" + "07",
    );
    expect(decodeMultifdHello(bytes)).toEqual({ uuid, id: 7 });
  });

  test("another magic or version is refused", () => {
    expect(() => decodeMultifdHello(new ByteWriter().text("QEVM").raw(new Uint8Array(60)).finish())).toThrow(
      expect.objectContaining({ code: "malformed" }),
    );
    const later = new ByteWriter().u32(0x11223344).u32(2).raw(new Uint8Array(56)).finish();
    expect(() => decodeMultifdHello(later)).toThrow(expect.objectContaining({ code: "malformed" }));
  });
});

describe("the head of a packet", () => {
  test("round trip with the places of its pages", () => {
    const page = fc.nat(USED_LENGTH / PAGE - 1).map((index) => index * PAGE);
    fc.assert(
      fc.property(
        fc.array(page, { minLength: 1, maxLength: ROOM }),
        fc.nat(),
        fc.boolean(),
        fc.constantFrom("none" as const, "zlib" as const, "zstd" as const),
        fc.nat(Number.MAX_SAFE_INTEGER),
        (places, split, sync, compression, packetNumber) => {
          const normalPages = split % (places.length + 1);
          const zeroPages = places.length - normalPages;
          const raw = compression === "none" || normalPages === 0;
          const payloadBytes = raw ? normalPages * PAGE : 77;
          const block = "/objects/mem0";
          const packet = { sync, compression, normalPages, zeroPages, payloadBytes, packetNumber, block };
          const bytes = head({ ...packet, places });
          expect(decodeMultifdPacket(bytes, PAGE)).toEqual(packet);
          expect(placesOf(bytes)).toEqual(places);
        },
      ),
    );
  });

  test("has QEMU's layout", () => {
    const places = [0x1_0000_3000, 0x2000];
    const bytes = head({
      normalPages: 1,
      zeroPages: 1,
      payloadBytes: PAGE,
      block: "pc.ram",
      packetNumber: 9,
      places,
    });
    const hex = Buffer.from(bytes).toString("hex");
    expect(bytes).toHaveLength(320 + 8 * 128);
    expect(hex.slice(0, 2 * 40)).toBe(
      "11223344" +
        "00000001" +
        "00000000" +
        "00000080" +
        "00000001" +
        "00001000" +
        "0000000000000009" +
        "00000001" +
        "00000000",
    );
    expect(hex.slice(2 * 64, 2 * 71)).toBe(Buffer.from("pc.ram\0").toString("hex"));
    expect(hex.slice(2 * 320, 2 * 336)).toBe("0000000100003000" + "0000000000002000");
  });

  test("QEMU 7.2's that only syncs has the length of an earlier packet in it, and nothing behind it", () => {
    const bytes = head({ sync: true });
    new DataView(bytes.buffer).setUint32(20, 0x80000);
    expect(decodeMultifdPacket(bytes, PAGE)).toMatchObject({ sync: true, normalPages: 0, payloadBytes: 0 });
  });

  test.each<readonly [string, string, (view: DataView) => void]>([
    ["another magic", "malformed", (view) => view.setUint32(0, 1)],
    ["the state of a device", "unsupported", (view) => view.setUint32(8, 32 << 1)],
    ["an accelerator's compression", "unsupported", (view) => view.setUint32(8, 4 << 1)],
    ["two compressions at a time", "unsupported", (view) => view.setUint32(8, 3 << 1)],
    ["room for more pages than fit", "inconsistent", (view) => view.setUint32(12, ROOM + 1)],
    ["more normal pages than room", "malformed", (view) => view.setUint32(16, ROOM + 1)],
    ["more pages than room", "malformed", (view) => view.setUint32(32, ROOM)],
    ["so many pages that their number wraps around", "malformed", (view) => view.setUint32(32, 0xffff_ffff)],
    ["raw pages of another length", "malformed", (view) => view.setUint32(20, PAGE + 1)],
    ["no UTF-8 name", "malformed", (view) => view.setUint8(64, 0xff)],
  ])("%s is refused", (_, code, change) => {
    const bytes = head({ normalPages: 1, payloadBytes: PAGE, block: "pc.ram", places: [0] });
    change(new DataView(bytes.buffer));
    expect(() => decodeMultifdPacket(bytes, PAGE)).toThrow(expect.objectContaining({ code }));
  });

  test("compressed data may be longer than its pages, but not without end", () => {
    const packet = {
      normalPages: ROOM,
      compression: "zlib",
      block: "pc.ram",
      places: new Array(ROOM).fill(0),
    } as const;
    const longest = 2 * 512 * 1024;
    expect(decodeMultifdPacket(head({ ...packet, payloadBytes: longest }), PAGE).payloadBytes).toBe(longest);
    for (const payloadBytes of [0, longest + 1]) {
      expect(() => decodeMultifdPacket(head({ ...packet, payloadBytes }), PAGE)).toThrow(
        expect.objectContaining({ code: "malformed" }),
      );
    }
  });

  test.each([USED_LENGTH, 1, 2 ** 40, 2 ** 63])("a page at %d is none of the block's", (place) => {
    const bytes = head({ normalPages: 1, payloadBytes: PAGE, block: "pc.ram", places: [place] });
    expect(() => placesOf(bytes)).toThrow(expect.objectContaining({ code: "malformed" }));
  });
});
