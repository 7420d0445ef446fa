import { MachineError } from "../../../errors/index.js";
import {
  ByteWriter,
  encodeCommand,
  Limits,
  MigrationCommand,
  packagedCommand,
  pingCommand,
  plainCommand,
} from "../../../wire/index.js";
import { PostcopyPing } from "../../postcopy/pings.js";

/** `QEMU_VM_PING_PACKAGED_LOADED`: its PONG says that the devices are loaded and the guest is about to run there. */
export const PING_PACKAGED_LOADED = 0x42;

/**
 * Nests what turns the guest over: the destination listens for pages, loads its devices, answers, and runs.
 *
 * @param deviceSections The sections alone, without the stream's end.
 * @param pings Values of the PINGs between the devices and RUN.
 * @returns The command PACKAGED and the nested stream behind it, which may be longer than a destination takes.
 */
export function nestDevices(
  deviceSections: Uint8Array,
  pings: readonly number[],
): readonly [Uint8Array, Uint8Array] {
  const nested = new ByteWriter(deviceSections.length + 64);
  encodeCommand(nested, plainCommand(MigrationCommand.POSTCOPY_LISTEN));
  nested.raw(deviceSections);
  for (const value of pings) encodeCommand(nested, pingCommand(value));
  encodeCommand(nested, plainCommand(MigrationCommand.POSTCOPY_RUN));
  const command = new ByteWriter();
  encodeCommand(command, packagedCommand(nested.length));
  return [command.finish(), nested.finish()];
}

/**
 * Packs the devices of a machine of this process.
 *
 * @returns As {@link nestDevices}.
 * @throws MachineError for devices beyond what a destination takes.
 */
export function packDevices(deviceSections: Uint8Array): readonly [Uint8Array, Uint8Array] {
  const packed = nestDevices(deviceSections, [PostcopyPing.DEVICES_LOADED, PING_PACKAGED_LOADED]);
  const { length } = packed[1];
  if (length <= Limits.packagedBytes) return packed;
  throw new MachineError("not-capable", "The devices are too large for a postcopy migration", {
    expected: `at most ${Limits.packagedBytes} bytes`,
    actual: length,
    hint: "migrate without postcopy",
  });
}
