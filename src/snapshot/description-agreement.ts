import { FormatError } from "../errors/index.js";
import type { DescribedDevice, VmstateDescription } from "../wire/index.js";
import type { SnapshotSection } from "./snapshot.js";

/** What the description is held against. */
interface Described {
  readonly sections: readonly SnapshotSection[];
  readonly targetPageSize: number;
  /** Sections before this offset were delimited without the description, so their lengths are compared here. */
  readonly ramEndOffset: number;
  readonly descriptionOffset: number;
}

/**
 * Compares a vmstate description with the sections: the same devices in the same order, with the same versions and
 * lengths, and the target page size. Iterative sections (RAM) are in no description.
 */
export function compareDescription(content: VmstateDescription, file: Described): FormatError[] {
  const problems: FormatError[] = [];
  const { targetPageSize, descriptionOffset } = file;
  if (content.pageSize !== undefined && content.pageSize !== targetPageSize) {
    problems.push(
      new FormatError("inconsistent", "The vmstate description has another page size than the RAM section", {
        offset: descriptionOffset,
        expected: targetPageSize,
        actual: content.pageSize,
      }),
    );
  }
  const sections = file.sections.filter((section) => !section.iterative);
  const pairs = new Map<string, SnapshotSection[]>();
  for (const section of sections) {
    const key = deviceKey(section);
    const same = pairs.get(key);
    if (same === undefined) pairs.set(key, [section]);
    else same.push(section);
  }
  const matched: SnapshotSection[] = [];
  for (const device of content.devices) {
    const section = pairs.get(deviceKey(device))?.shift();
    if (section === undefined) problems.push(missingSection(device, descriptionOffset));
    else {
      matched.push(section);
      if (section.offset < file.ramEndOffset) problems.push(...compareEarly(device, section));
    }
  }
  for (const left of pairs.values()) problems.push(...left.map(undescribedSection));
  const late = matched.find((section, index) => section.offset < (matched[index - 1]?.offset ?? 0));
  if (late !== undefined) {
    problems.push(
      new FormatError("inconsistent", "The vmstate description has the sections in another order", {
        offset: late.offset,
        section: late.name,
      }),
    );
  }
  return problems;
}

function deviceKey(device: { readonly name: string; readonly instance: number }): string {
  return `${device.instance} ${device.name}`;
}

function missingSection(device: DescribedDevice, offset: number): FormatError {
  return new FormatError("inconsistent", "The vmstate description lists a device that has no section", {
    offset,
    section: device.name,
    expected: `instance ${device.instance}`,
  });
}

function undescribedSection(section: SnapshotSection): FormatError {
  return new FormatError("inconsistent", "A device section is not in the vmstate description", {
    offset: section.offset,
    section: section.name,
    actual: `instance ${section.instance}`,
  });
}

/** Version and length of a section that was read before the description was known. */
function compareEarly(device: DescribedDevice, section: SnapshotSection): FormatError[] {
  const problems: FormatError[] = [];
  const compare = (what: string, expected: number | undefined, actual: number | undefined): void => {
    if (expected === undefined || actual === undefined || expected === actual) return;
    const place = { offset: section.offset, section: section.name, expected, actual };
    problems.push(
      new FormatError("inconsistent", `A section and its description have different ${what}`, place),
    );
  };
  compare("versions", device.version, section.version);
  compare("lengths", device.payloadBytes, section.payloadLength);
  return problems;
}
