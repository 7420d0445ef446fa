/** The capability that a mapped-ram file's configuration names, and that its loader must have on. */
export const MAPPED_RAM_CAPABILITY = "mapped-ram";
/** Shared RAM blocks are listed and not migrated. */
export const IGNORE_SHARED_CAPABILITY = "x-ignore-shared";
