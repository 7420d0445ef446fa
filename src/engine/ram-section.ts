import { FormatError } from "../errors/index.js";
import { RAM_SECTION, type SectionHeader } from "../wire/index.js";

/**
 * Checks that the RAM section has the version that ramport knows.
 *
 * @param offset Where the section begins.
 * @throws FormatError `unsupported` otherwise.
 */
export function checkRamVersion({ version }: SectionHeader, offset: number): void {
  if (version === RAM_SECTION.version) return;
  throw new FormatError("unsupported", "The RAM section has an unknown version", {
    offset,
    section: RAM_SECTION.name,
    expected: RAM_SECTION.version,
    actual: version,
  });
}
