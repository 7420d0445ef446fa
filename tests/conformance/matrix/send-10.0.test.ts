/** A QEMU 10.0 that waits, fed. */

import { describeMatrix } from "./matrix-suite.js";
import { sendCells } from "./send-cells.js";

describeMatrix("10.0", "send", sendCells);
