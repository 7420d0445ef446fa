/**
 * Numbers of the migration stream, under the names that QEMU gives them (its `migration/savevm.h`, `qemu-file.h`,
 * `ram.c`, `ram.h`), so that a reader can look them up there.
 *
 * @module
 */

/** `QEMU_VM_FILE_MAGIC`: "QEVM", the first four bytes of every stream. */
export const QEMU_VM_FILE_MAGIC = 0x5145564d;
/** `QEMU_VM_FILE_VERSION`: the only stream version in use; 2 is obsolete and refused by QEMU too. */
export const QEMU_VM_FILE_VERSION = 3;
/** `QEMU_VM_FILE_VERSION_COMPAT`: the obsolete version. */
export const QEMU_VM_FILE_VERSION_COMPAT = 2;

/** `QEMU_VM_*`: the byte that opens each part of a stream. */
export const SectionType = {
  EOF: 0x00,
  START: 0x01,
  PART: 0x02,
  END: 0x03,
  FULL: 0x04,
  SUBSECTION: 0x05,
  VMDESCRIPTION: 0x06,
  CONFIGURATION: 0x07,
  COMMAND: 0x08,
  FOOTER: 0x7e,
} as const;

/** `RAM_SAVE_FLAG_*`: low bits of the be64 that opens each record of the RAM section. */
export const RamFlag = {
  /** A page filled with one byte, always 0 today (`RAM_SAVE_FLAG_ZERO`, once `_COMPRESS`). */
  ZERO: 0x002,
  /** The block list; the address field is the sum of the used lengths. */
  MEM_SIZE: 0x004,
  PAGE: 0x008,
  EOS: 0x010,
  /** Same block as the record before: no block name follows. */
  CONTINUE: 0x020,
  XBZRLE: 0x040,
  /** RDMA's. */
  HOOK: 0x080,
  /** zlib page of QEMU before 9.1. */
  COMPRESS_PAGE: 0x100,
  MULTIFD_FLUSH: 0x200,
} as const;

/** All flags that a RAM record may carry. */
export const RAM_FLAGS_KNOWN = 0x3fe;

/** Section name of guest RAM, and the only version of it in use (since QEMU 0.12). */
export const RAM_SECTION = { name: "ram", version: 4 } as const;

/** `MIG_CMD_*`: what a COMMAND carries. */
export const MigrationCommand = {
  OPEN_RETURN_PATH: 1,
  PING: 2,
  POSTCOPY_ADVISE: 3,
  POSTCOPY_LISTEN: 4,
  POSTCOPY_RUN: 5,
  POSTCOPY_RAM_DISCARD: 6,
  PACKAGED: 7,
  ENABLE_COLO: 8,
  POSTCOPY_RESUME: 9,
  RECV_BITMAP: 10,
  SWITCHOVER_START: 11,
} as const;

/** `MIG_RP_MSG_*`: messages of the return path, destination to source. */
export const ReturnPathMessage = {
  SHUT: 1,
  PONG: 2,
  REQ_PAGES_ID: 3,
  REQ_PAGES: 4,
  RECV_BITMAP: 5,
  RESUME_ACK: 6,
  SWITCHOVER_ACK: 7,
} as const;

/** `RAMBLOCK_RECV_BITMAP_ENDING`: stands behind a received bitmap. */
export const RECEIVED_BITMAP_END = 0x0123456789abcdefn;
/** `MIGRATION_RESUME_ACK_VALUE`. */
export const RESUME_ACK_VALUE = 1;

/** `MAPPED_RAM_HDR_VERSION`. */
export const MAPPED_RAM_HEADER_VERSION = 1;
/** `MAPPED_RAM_FILE_OFFSET_ALIGNMENT`: QEMU starts each block's page area on such a boundary. */
export const MAPPED_RAM_PAGES_ALIGNMENT = 0x100000;

/** `MULTIFD_MAGIC`: the first four bytes of every extra connection, and of every packet on it. */
export const MULTIFD_MAGIC = 0x11223344;
/** `MULTIFD_VERSION`. */
export const MULTIFD_VERSION = 1;
/** `MULTIFD_PACKET_SIZE`: what the pages of one packet take at most, in bytes; it says how many a packet has room for. */
export const MULTIFD_PACKET_SIZE = 512 * 1024;

/** `MULTIFD_FLAG_*`: flags of a packet. */
export const MultifdFlag = {
  /** Everything that a round, or a section, sends over this channel has been sent. */
  SYNC: 1 << 0,
  COMPRESSION_MASK: 0x1f << 1,
  NOCOMP: 0 << 1,
  ZLIB: 1 << 1,
  ZSTD: 2 << 1,
  QPL: 4 << 1,
  UADK: 8 << 1,
  QATZIP: 16 << 1,
  /** The packet holds the state of a device, and has another layout. */
  DEVICE_STATE: 32 << 1,
} as const;

/** Target page size of x86, s390x, most arm and ppc machines: where nothing in a stream says another. */
export const DEFAULT_TARGET_PAGE_SIZE = 4096;

/**
 * Limits on what a file or peer controls. QEMU's own values are smaller in practice; these are where ramport stops
 * believing its input instead of spending memory or time on it.
 */
export const Limits = {
  /** Bytes of a machine type name. QEMU's longest today has 32. */
  machineNameBytes: 4096,
  capabilities: 64,
  subsections: 16,
  /** QEMU guests have some ten RAM blocks; hotplugged DIMMs make it a few hundred. */
  ramBlocks: 4096,
  /** Guest pages of one snapshot: 16 TiB in pages of 4 KiB, whose bitmaps take 512 MiB. */
  pages: 2 ** 32,
  /** Sections, parts of sections and commands of one stream. */
  sections: 65_536,
  /** Bytes of the vmstate description: QEMU's largest seen is below 1 MiB, and grows by some 20 KiB a CPU. */
  descriptionBytes: 32 * 1024 * 1024,
  /** Depth of nested structs in the description. */
  descriptionDepth: 64,
  /** Depth of its JSON: a nested struct is an object in a list in an object in a list. */
  descriptionJsonDepth: 256,
  /** Values in its JSON. QEMU's take more than ten bytes each; what they become in memory is several times that. */
  descriptionValues: 4_000_000,
  /** Bytes of a device section whose end has to be searched for. */
  searchedSectionBytes: 64 * 1024 * 1024,
  /**
   * Bytes behind the RAM section, device state and description: they are held in memory. virtio-gpu alone may have 256 MiB
   * of resources in its section.
   */
  tailBytes: 512 * 1024 * 1024,
  /** Bytes of device state in one PACKAGED command: it is held in memory. QEMU has no bound of its own but 4 GiB. */
  packagedBytes: 512 * 1024 * 1024,
  /** Smallest and largest target page: AVR has 256 bytes, no target more than 64 KiB. */
  minTargetPageSize: 256,
  maxTargetPageSize: 65_536,
} as const;
