/** What a QEMU 10.0 sends, captured. */

import { describeMatrix } from "./matrix-suite.js";
import { receiveCells } from "./receive-cells.js";

describeMatrix("10.0", "receive", receiveCells);
