/**
 * Why a setting is refused.
 *
 * @module
 */
import { UsageError } from "../errors/index.js";

/** A refusal, before it becomes an error. */
export interface SettingProblem {
  /**
   * `conflict`: QEMU refuses it as well, for the sake of another setting. `unsupported`: QEMU has it, the engine does
   * not. `too-late`: a migration already runs or waits.
   */
  readonly kind: "conflict" | "unsupported" | "too-late";
  /** The capabilities and parameters concerned; the one that is refused is first. */
  readonly names: readonly string[];
  /** One sentence. */
  readonly message: string;
  /** What to do about it. */
  readonly hint: string;
}

/** Throws a problem, if there is one, as {@link UsageError}. */
export function throwProblem(problem: SettingProblem | undefined): void {
  if (problem !== undefined) throw new UsageError(problem.message, { hint: problem.hint });
}
