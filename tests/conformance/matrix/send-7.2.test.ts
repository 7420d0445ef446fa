/** A QEMU 7.2 that waits, fed. */

import { describeMatrix } from "./matrix-suite.js";
import { sendCells } from "./send-cells.js";

describeMatrix("7.2", "send", sendCells);
