import { createRequire } from "node:module";
import process from "node:process";

type Koffi = typeof import("koffi");
type CLibrary = ReturnType<Koffi["load"]>;

/**
 * Loads the optional package `koffi`: on first use, for it takes 10 ms, and without await, for callers work synchronously.
 *
 * @throws What Node throws when it is not there, or not for this machine.
 */
export function loadKoffi(): Koffi {
  return createRequire(import.meta.url)("koffi") as Koffi;
}

/**
 * Functions of Linux's C library that callers can do without. They are bound when they are first asked for, and only once.
 *
 * @returns What gives them; it gives undefined on other systems and without the optional package `koffi`.
 */
export function optionalSystemCalls<T>(bind: (libc: CLibrary, koffi: Koffi) => T): () => T | undefined {
  let calls: T | null | undefined;
  return () => {
    if (calls === undefined) calls = bindOnLinux(bind);
    return calls ?? undefined;
  };
}

function bindOnLinux<T>(bind: (libc: CLibrary, koffi: Koffi) => T): T | null {
  if (process.platform !== "linux") return null;
  try {
    const koffi = loadKoffi();
    return bind(koffi.load(null), koffi);
  } catch {
    return null;
  }
}
