/** A QEMU 11.1 that waits, fed. */

import { describeMatrix } from "./matrix-suite.js";
import { sendCells } from "./send-cells.js";

describeMatrix("11.1", "send", sendCells);
