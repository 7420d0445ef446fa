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
 * Packs what turns the guest over: the destination listens for pages, loads its devices, says so, and runs.
 *
 * @param deviceSections The sections alone, without the stream's end.
 * @returns The command PACKAGED and the nested stream behind it.
 * @throws MachineError for devices beyond what a destination takes.
 */
export function packDevices(deviceSections: Uint8Array): readonly [Uint8Array, Uint8Array] {
  const nested = new ByteWriter();
  encodeCommand(nested, plainCommand(MigrationCommand.POSTCOPY_LISTEN));
  nested.raw(deviceSections);
  encodeCommand(nested, pingCommand(PostcopyPing.DEVICES_LOADED));
  encodeCommand(nested, pingCommand(PING_PACKAGED_LOADED));
  encodeCommand(nested, plainCommand(MigrationCommand.POSTCOPY_RUN));
  const bytes = nested.finish();
  if (bytes.length > Limits.packagedBytes) {
    throw new MachineError("not-capable", "The devices are too large for a postcopy migration", {
      expected: `at most ${Limits.packagedBytes} bytes`,
      actual: bytes.length,
      hint: "migrate without postcopy",
    });
  }
  const command = new ByteWriter();
  encodeCommand(command, packagedCommand(bytes.length));
  return [command.finish(), bytes];
}
