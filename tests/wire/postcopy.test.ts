import { describe, expect, it } from "vitest";

import {
  ByteReader,
  ByteWriter,
  decodeCommand,
  decodePackaged,
  decodePageRequest,
  decodePostcopyAdvise,
  decodeRamDiscard,
  decodeReceivedBitmap,
  decodeReceivedBitmapCommand,
  decodeReceivedBitmapName,
  decodeResumeAck,
  decodeReturnPathRecord,
  encodeCommand,
  encodePageRequest,
  encodeReceivedBitmap,
  encodeResumeAck,
  Limits,
  MigrationCommand,
  packagedCommand,
  postcopyAdviseCommand,
  ramDiscardCommand,
  receivedBitmapCommand,
  ReturnPathMessage,
} from "../../src/wire/index.js";

function sent(write: (writer: ByteWriter) => void): ByteReader {
  const writer = new ByteWriter();
  write(writer);
  return new ByteReader(writer.finish());
}

describe("postcopy commands", () => {
  it("have the layout of QEMU's", () => {
    const writer = new ByteWriter();
    encodeCommand(writer, postcopyAdviseCommand({ hostPageSizes: 0x20_1000, targetPageSize: 4096 }));
    encodeCommand(writer, ramDiscardCommand({ block: "pc", ranges: [{ start: 0x1000, length: 0x2000 }] }));
    encodeCommand(writer, packagedCommand(0x01020304));
    const expected =
      "08 0003 0010 0000000000201000 0000000000001000" +
      "08 0006 0015 00 02 7063 00 0000000000001000 0000000000002000" +
      "08 0007 0004 01020304";
    expect(Buffer.from(writer.finish()).toString("hex")).toBe(expected.replaceAll(" ", ""));
  });

  it("come back as they were", () => {
    const discard = {
      block: "pc.ram",
      ranges: [
        { start: 0, length: 4096 },
        { start: 2 ** 40, length: 2 ** 21 },
      ],
    };
    expect(decodeRamDiscard(ramDiscardCommand(discard).data)).toEqual(discard);
    const advice = { hostPageSizes: 4096, targetPageSize: 4096 };
    expect(decodePostcopyAdvise(postcopyAdviseCommand(advice).data)).toEqual(advice);
    expect(decodePostcopyAdvise(new Uint8Array())).toBeUndefined();
    expect(decodePackaged(packagedCommand(77).data)).toBe(77);
    expect(decodeReceivedBitmapCommand(receivedBitmapCommand("pc.ram").data)).toBe("pc.ram");
    const reader = sent((writer) => encodeCommand(writer, receivedBitmapCommand("a")));
    expect(reader.u8()).toBe(8);
    expect(decodeCommand(reader).command).toBe(MigrationCommand.RECV_BITMAP);
  });

  it.each([
    ["an advice of 8 bytes", () => decodePostcopyAdvise(new Uint8Array(8))],
    ["an advice without page size", () => decodePostcopyAdvise(new Uint8Array(16))],
    ["a discard without its zero byte", () => decodeRamDiscard(Uint8Array.of(0, 1, 0x61, 7))],
    ["a discard of another version", () => decodeRamDiscard(Uint8Array.of(1, 1, 0x61, 0))],
    ["half a range", () => decodeRamDiscard(Uint8Array.of(0, 1, 0x61, 0, 0, 0, 0, 0, 0, 0, 0, 1))],
    [
      "an empty range",
      () => decodeRamDiscard(ramDiscardCommand({ block: "a", ranges: [{ start: 0, length: 0 }] }).data),
    ],
    ["a package of 2 bytes", () => decodePackaged(new Uint8Array(2))],
    ["a package beyond reason", () => decodePackaged(packagedCommand(Limits.packagedBytes + 1).data)],
    ["a bitmap's name with more behind it", () => decodeReceivedBitmapCommand(Uint8Array.of(1, 0x61, 0))],
  ])("refuse %s", (_what, decode) => {
    expect(decode).toThrow(expect.objectContaining({ name: "FormatError" }));
  });
});

describe("return path of postcopy", () => {
  it.each([
    { block: "pc.ram", start: 0x7f000, length: 4096 },
    { block: undefined, start: 2 ** 36, length: 2 << 20 },
  ])("asks for pages: $block", (request) => {
    const { type, data } = decodeReturnPathRecord(sent((writer) => encodePageRequest(writer, request)));
    expect(decodePageRequest(type, new ByteReader(data))).toEqual(request);
  });

  it("refuses a request with more behind it", () => {
    expect(() => decodePageRequest(ReturnPathMessage.REQ_PAGES, new ByteReader(new Uint8Array(13)))).toThrow(
      expect.objectContaining({ code: "malformed" }),
    );
  });

  it("sends bitmaps, whose length and end are checked", () => {
    const bitmap = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const reader = sent((writer) => encodeReceivedBitmap(writer, "pc.ram", bitmap));
    const { type, data } = decodeReturnPathRecord(reader);
    expect(type).toBe(ReturnPathMessage.RECV_BITMAP);
    expect(decodeReceivedBitmapName(new ByteReader(data))).toBe("pc.ram");
    const { position } = reader;
    expect(decodeReceivedBitmap(reader, "pc.ram", 64)).toEqual(bitmap);
    expect(reader.remaining).toBe(0);
    reader.position = position;
    expect(() => decodeReceivedBitmap(reader, "pc.ram", 65)).toThrow(
      expect.objectContaining({ code: "inconsistent" }),
    );
    reader.position = position;
    reader.bytes[reader.bytes.length - 1] = 0;
    expect(() => decodeReceivedBitmap(reader, "pc.ram", 64)).toThrow(
      expect.objectContaining({ code: "malformed" }),
    );
  });

  it("agrees to go on", () => {
    const { type, data } = decodeReturnPathRecord(sent(encodeResumeAck));
    expect(type).toBe(ReturnPathMessage.RESUME_ACK);
    decodeResumeAck(new ByteReader(data));
    expect(() => decodeResumeAck(new ByteReader(new Uint8Array(4)))).toThrow(
      expect.objectContaining({ code: "malformed" }),
    );
  });
});
