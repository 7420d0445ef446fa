/** What a QEMU 11.1 sends, captured. */

import { describeMatrix } from "./matrix-suite.js";
import { receiveCells } from "./receive-cells.js";

describeMatrix("11.1", "receive", receiveCells);
