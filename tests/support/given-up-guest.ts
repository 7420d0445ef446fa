/**
 * A process whose guest waits for pages of a migration that was given up: its argument is the source's path.
 *
 * @module
 */

import process from "node:process";

import { connectSocket } from "../../src/channels/index.js";
import { postcopyGuest } from "./postcopy-guest.js";
import { SOURCE_PAGE } from "./source-pages.js";

const path = process.argv[2] ?? "";
const { memory, listening } = await postcopyGuest(await connectSocket({ path }, path));
listening.running();
listening.abort(new Error("enough"));
// This thread does not hear of it: a page that is on its way may come, and then one will not.
for (let at = 0; at < memory.length; at += SOURCE_PAGE) memory.at(at);
process.exit(0);
