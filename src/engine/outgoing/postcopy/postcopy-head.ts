import type { RandomAccessSource } from "../../../channels/index.js";
import { FormatError } from "../../../errors/index.js";
import {
  ByteWriter,
  encodeCommand,
  Limits,
  MigrationCommand,
  pingCommand,
  plainCommand,
  postcopyAdviseCommand,
  ramDiscardCommand,
  SectionType,
} from "../../../wire/index.js";
import { IGNORE_SHARED_CAPABILITY } from "../../mapped-ram/capability.js";
import type { MappedRamFile } from "../../mapped-ram/open.js";
import { readMappedRamTail } from "../../mapped-ram/tail.js";
import { PostcopyPing } from "../../postcopy/pings.js";
import { encodeRamPartEnd, encodeRamStart, encodeStreamHead } from "../../stream-frames.js";
import { readEarlySection, splitBetweenRam } from "../replay.js";
import { nestDevices } from "./package.js";
import { adviceFor, ORDINARY_HOST_PAGE_BYTES, type PageSource } from "./page-source.js";

/** The parts of a lazy load's stream that are no pages, in the order in which they are sent. */
export interface PostcopyHead {
  /** Header, configuration, return path, PING 1, ADVISE, block list, and what devices send in front of pages. */
  readonly start: Uint8Array;
  /** Commands that stand between the parts of RAM in the file. */
  readonly betweenRam: Uint8Array;
  /** PACKAGED with LISTEN, the devices as they are in the file, PING 3 and RUN; then PING 4. */
  readonly package: Uint8Array;
}

/**
 * Makes the stream of a lazy load from a mapped-ram file, but for its pages.
 *
 * The configuration goes without capabilities: those of a mapped-ram file are not those of postcopy, and a loader wants the
 * same ones.
 *
 * @param devices What {@link encodePostcopyDevices} made of the same file, where that was done before.
 * @throws FormatError when the file is damaged; `unsupported` for a guest that QEMU cannot load by postcopy.
 */
export function encodePostcopyHead(
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  source: PageSource,
  devices = encodePostcopyDevices(file, skeleton),
): PostcopyHead {
  const { configuration, beforeRam, ram, footers } = skeleton;
  const { setup, rounds } = splitBetweenRam(skeleton);
  const writer = new ByteWriter();
  encodeStreamHead(writer, { ...configuration, capabilities: [] });
  encodeCommand(writer, plainCommand(MigrationCommand.OPEN_RETURN_PATH));
  encodeCommand(writer, pingCommand(PostcopyPing.RETURN_PATH));
  encodeCommand(writer, postcopyAdviseCommand(adviceFor(source)));
  for (const section of beforeRam) writer.raw(readEarlySection(file, section));
  encodeRamStart(writer, ram, blocksWithPageSizes(skeleton, source));
  encodeRamPartEnd(writer, ram.id, footers);
  for (const section of setup) writer.raw(readEarlySection(file, section));
  const between = new ByteWriter();
  for (const section of rounds) between.raw(readEarlySection(file, section));
  return { start: writer.finish(), betweenRam: between.finish(), package: devices };
}

/**
 * The command that makes a destination forget one page, which it does not have, and with it prepare its memory for postcopy.
 * Without any discard QEMU goes on loading as in precopy, and waits for itself at the first missing page.
 *
 * It has to come before any page: until then QEMU's memory may be in transparent huge pages, and a page that is loaded brings its
 * 511 neighbours into being, which then cannot be placed any more.
 */
export function encodeDiscard({ blocks }: PageSource): Uint8Array {
  const writer = new ByteWriter();
  const [first] = blocks;
  if (first !== undefined) {
    const { name, hostPageSize } = first;
    encodeCommand(writer, ramDiscardCommand({ block: name, ranges: [{ start: 0, length: hostPageSize }] }));
  }
  return writer.finish();
}

/** The PING that tells whether a destination has come as far as the package. */
export function encodePingBeforePackage(): Uint8Array {
  const writer = new ByteWriter();
  encodeCommand(writer, pingCommand(PostcopyPing.BEFORE_PACKAGE));
  return writer.finish();
}

/** An entry has its page size only where that is not the ordinary one. */
function blocksWithPageSizes(
  { blocks, pageSize }: MappedRamFile,
  source: PageSource,
): MappedRamFile["blocks"] {
  const ordinary = Math.max(ORDINARY_HOST_PAGE_BYTES, pageSize);
  return blocks.map((block, index) => {
    const hostPageSize = source.blocks[index]?.hostPageSize ?? ordinary;
    return hostPageSize === ordinary ? block : { ...block, hostPageSize };
  });
}

/**
 * Makes the package: all that depends on nothing that a destination tells.
 *
 * @throws As {@link encodePostcopyHead}.
 */
export function encodePostcopyDevices(file: RandomAccessSource, skeleton: MappedRamFile): Uint8Array {
  refuseImpossible(skeleton);
  const { tail, bytes } = readMappedRamTail(file, skeleton);
  const iterative = tail.sections.find((section) => section.iterative);
  if (iterative !== undefined) throw iterativeDevice(iterative.name, iterative.offset);
  const [part] = tail.laterParts;
  if (part !== undefined) throw iterativeDevice(`number ${part.id}`, part.offset);
  const devices = bytes.subarray(0, tail.eofOffset - tail.baseOffset);
  const [command, nested] = nestDevices(devices, [PostcopyPing.DEVICES_LOADED]);
  if (nested.length > Limits.packagedBytes) {
    throw new FormatError("limit-exceeded", "The device state is too large for postcopy", {
      offset: tail.baseOffset,
      expected: `at most ${Limits.packagedBytes} bytes`,
      actual: nested.length,
    });
  }
  const writer = new ByteWriter(nested.length + 64);
  writer.raw(command).raw(nested);
  encodeCommand(writer, pingCommand(PostcopyPing.LISTENING));
  return writer.finish();
}

/** What a destination would refuse, or misunderstand, is refused before it hears of it. */
function refuseImpossible({ configuration, beforeRam, betweenRam, blocks }: MappedRamFile): void {
  if (blocks.length === 0) {
    throw new FormatError("unsupported", "The snapshot has no memory that could be loaded later");
  }
  if (configuration.capabilities.includes(IGNORE_SHARED_CAPABILITY)) {
    throw new FormatError("unsupported", "QEMU cannot load a snapshot with x-ignore-shared by postcopy", {
      hint: "load it as a whole",
    });
  }
  for (const section of [...beforeRam, ...betweenRam]) {
    const { type, header, id, offset } = section;
    if (type === SectionType.FULL || type === SectionType.COMMAND) continue;
    throw iterativeDevice(header?.name ?? `number ${id ?? 0}`, offset);
  }
}

/** Its parts would have to be loaded before the guest runs, in an order that depends on the device. */
function iterativeDevice(section: string, offset: number): FormatError {
  const message = "A device of this snapshot was saved in several parts, which postcopy has no place for";
  return new FormatError("unsupported", message, { offset, section, hint: "load it as a whole" });
}
