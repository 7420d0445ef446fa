/**
 * A v86 machine as a process of its own, with QEMU's habits: run states, serial ports, monitors, migration.
 *
 * @module
 */
export {
  type Chardev,
  parseChardev,
  parseSocketChardev,
  type SocketChardev,
  splitAtCommas,
} from "./chardev.js";
export type { VmImages } from "./images.js";
export {
  type MachineEnd,
  type ResettableHost,
  VirtualMachine,
  type VirtualMachineOptions,
} from "./machine.js";
export { type RunningVm, startVm, type VmOptions } from "./run.js";
