/**
 * A Chromium for tests of pages: the system's, or the one that CHROMIUM names.
 *
 * @module
 */
import { accessSync, constants } from "node:fs";
import { type Browser, chromium } from "playwright-core";
import { describe } from "vitest";

import { reportMissing } from "./missing.js";

const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].reduce<
  string | undefined
>((found, path) => found ?? (isExecutable(path) ? path : undefined), process.env.CHROMIUM);

/** Keep it from talking to anybody by itself. Root has no sandbox. */
const ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * A `describe` for tests in a browser. Without one the suite is skipped and its name says why; with `CI` in the environment
 * it fails.
 */
export function describeWithChromium(title: string, body: () => void): void {
  const reason = "there is no /usr/bin/chromium (apt-get install chromium), and CHROMIUM names none";
  if (executablePath !== undefined) describe(title, body);
  else reportMissing({ title, reason });
}

/** Starts it, with a new empty profile. */
export async function startChromium(): Promise<Browser> {
  return chromium.launch({
    ...(executablePath === undefined ? {} : { executablePath }),
    args: ARGS,
  });
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
