import { PageScanKernel } from "./page-scan-kernel.js";
import { PageScanTwin } from "./page-scan-twin.js";
import type { PageScanner, PageScannerOptions } from "./page-scanner.js";
import { hostIsLittleEndian } from "./web-assembly.js";

/**
 * A scanner of pages: the kernel, or its twin where WebAssembly is forbidden or has no SIMD, and where words read from
 * the kernel's memory would be turned round.
 */
export function createPageScanner(options: PageScannerOptions): PageScanner {
  const kernel = hostIsLittleEndian ? PageScanKernel.start(options) : undefined;
  return kernel ?? new PageScanTwin(options);
}
