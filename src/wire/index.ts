/**
 * Codecs of QEMU's migration stream and mapped-ram file: bytes to typed records and back. Synchronous, no imports from
 * Node, runs in a browser.
 *
 * @module
 */
export { ByteReader } from "./byte-reader.js";
export { ByteWriter } from "./byte-writer.js";
export * from "./command.js";
export * from "./configuration.js";
export * from "./constants.js";
export * from "./device-sections.js";
export { searchSectionFooter } from "./footer-search.js";
export { HTAB_SECTION_NAME, type HtabReached, skipHtabPart } from "./htab-section.js";
export { type Json, layOutJson } from "./json-layout.js";
export * from "./libvirt.js";
export * from "./mapped-ram.js";
export * from "./multifd.js";
export { type PageSizeSearch, searchTargetPageSize } from "./page-size-search.js";
export * from "./postcopy.js";
export * from "./ram-block-list.js";
export * from "./ram-records.js";
export * from "./return-path.js";
export * from "./section.js";
export { type ReadAt, searchStreamTail, type TailSearchOptions } from "./section-search.js";
export * from "./vmstate-description.js";
export type * from "./vmstate-events.js";
export {
  type DeviceLayout,
  type FieldLayout,
  layoutOfDescription,
  matchLayouts,
  parseVmstateLayout,
  type VmsdLayout,
  type VmstateLayout,
} from "./vmstate-layout.js";
export type { VmstateValue } from "./vmstate-scalars.js";
export * from "./vmstate-tree.js";
export * from "./vmstate-values.js";
export { applyXbzrle, encodeXbzrle, encodeXbzrleAt, type WordReadable, wordReadable } from "./xbzrle.js";
