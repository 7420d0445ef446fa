import process from "node:process";

import { parseFileWithOffset } from "../../channels/uri.js";
import { printable } from "../../errors/index.js";
import { snapshotInfo, type SnapshotInfo } from "../../snapshot/info.js";
import { readLibvirtXml } from "../../snapshot/libvirt-xml.js";
import { type CommonOptions, printResult } from "../context.js";
import { bytes } from "../format.js";
import { table } from "../table.js";

/** `ramport info`. */
export async function info(file: string, options: CommonOptions & { readonly xml?: boolean }): Promise<void> {
  const { path, offset } = parseFileWithOffset(file);
  if (options.xml === true) {
    process.stdout.write(readLibvirtXml(path, offset));
    return;
  }
  const result = await snapshotInfo(path, { offset });
  printResult(options, result, describe(file, result));
}

function describe(file: string, info: SnapshotInfo): string[] {
  const { pages } = info.ram;
  const counted = pages === undefined ? "" : `: ${pages.normal} with content, ${pages.zero} zero`;
  const { libvirt } = info;
  const onDisk = info.allocatedBytes === null ? "" : `, ${bytes(info.allocatedBytes)} on disk`;
  const facts: (readonly [string, string])[] = [
    [
      "file",
      `${bytes(info.fileBytes)}${onDisk}${info.streamOffset > 0 ? `, from offset ${info.streamOffset}` : ""}`,
    ],
    ["format", `${info.container} ${info.format}, stream version ${info.version}`],
    ...(libvirt === undefined
      ? []
      : ([
          [
            "domain",
            `${printable(libvirt.domain ?? "unnamed")}, ${libvirt.wasRunning ? "running" : "not running"} when saved`,
          ],
          ["packed", libvirt.format],
        ] as const)),
    ["machine", info.machine === "" ? "the stream does not say" : printable(info.machine)],
    ["capabilities", info.capabilities.length === 0 ? "none" : printable(info.capabilities.join(", "))],
    ...(info.uuid === null ? [] : ([["uuid", info.uuid]] as const)),
    ["memory", `${bytes(info.ram.totalBytes)} in pages of ${info.targetPageSize} bytes${counted}`],
    ["complete", info.complete ? "yes" : `no: ${printable(info.problem ?? "it ends too early", 1000)}`],
  ];
  return [
    file,
    ...facts.map(([name, text]) => `  ${name.padEnd(13)} ${text}`),
    "",
    ...table(
      ["RAM block", "bytes", "pages", "normal", "zero", "at"],
      info.ram.blocks.map((block) => [
        block.name,
        block.usedLength,
        block.pages?.total ?? (block.leftOut === true ? "not in the file" : ""),
        block.pages?.normal ?? "",
        block.pages?.zero ?? "",
        block.pagesOffset ?? "",
      ]),
    ),
    "",
    ...table(
      ["section", "instance", "version", "id", "offset", "length"],
      info.sections.map(({ name, instance, version, id, offset, length }) => [
        name,
        instance,
        version,
        id,
        offset,
        length,
      ]),
    ),
  ];
}
