/** What a QEMU 7.2 sends, captured. */

import { describeMatrix } from "./matrix-suite.js";
import { receiveCells } from "./receive-cells.js";

describeMatrix("7.2", "receive", receiveCells);
