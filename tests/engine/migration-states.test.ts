import { describe, expect, test } from "vitest";

import { isInPostcopy, MigrationState } from "../../src/engine/migration-states.js";
import { type KnownMigrationStatus, MIGRATION_STATUSES } from "../../src/qapi/index.js";

function after(...statuses: KnownMigrationStatus[]): MigrationState {
  const state = new MigrationState();
  for (const status of statuses) state.enter(status);
  return state;
}

describe("MigrationState", () => {
  test.each<KnownMigrationStatus[]>([
    ["setup", "active", "device", "completed"],
    ["setup", "active", "pre-switchover", "device", "completed", "setup"],
    ["setup", "cancelling", "cancelled", "setup"],
    ["setup", "active", "device", "cancelling", "completed"],
    ["setup", "active", "failing", "failed", "setup", "active"],
    // A destination that says that it could not load the devices.
    ["setup", "active", "device", "postcopy-device", "failing", "failed", "setup"],
    // As seen of QEMU 11.1: a source, and a destination.
    [
      ...["setup", "active", "device", "postcopy-device", "postcopy-active"],
      ...["postcopy-paused", "postcopy-recover-setup", "postcopy-paused"],
      ...["postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"],
    ] as KnownMigrationStatus[],
    [
      ...["setup", "active", "postcopy-device", "postcopy-active"],
      ...["postcopy-paused", "postcopy-recover", "postcopy-active", "completed"],
    ] as KnownMigrationStatus[],
  ])("%s, %s, %s, %s ... is a way that it goes", (...statuses) => {
    const seen: KnownMigrationStatus[] = [];
    const state = new MigrationState((status) => seen.push(status));
    for (const status of statuses) state.enter(status);
    expect(seen).toEqual(statuses);
    expect(state.status).toBe(statuses.at(-1));
  });

  test.each<[KnownMigrationStatus[], KnownMigrationStatus]>([
    [[], "active"],
    [["setup"], "completed"],
    [["setup", "active", "pre-switchover"], "completed"],
    [["setup", "cancelling"], "failed"],
    [["setup", "active", "failing"], "cancelled"],
    [["setup", "active", "device", "completed"], "failed"],
    // The guest is the destination's: nothing may lead to where a source lets its own go on.
    [["setup", "active", "device", "postcopy-device"], "cancelling"],
    [["setup", "active", "device", "postcopy-device", "postcopy-active"], "cancelling"],
    [["setup", "active", "device", "postcopy-device", "postcopy-active"], "failing"],
    [["setup", "active", "device", "postcopy-device", "postcopy-paused"], "failing"],
    [["setup", "active", "device", "postcopy-device", "postcopy-active", "postcopy-paused"], "failing"],
    [["setup", "active", "device", "completed"], "cancelling"],
  ])("%j is not followed by %s", (statuses, next) => {
    const state = after(...statuses);
    expect(() => state.enter(next)).toThrow(/ramport bug: migration status/);
    expect(state.status).toBe(statuses.at(-1) ?? "none");
  });

  test("is under way from setup to the end", () => {
    expect(after().underWay).toBe(false);
    expect(after("setup").underWay).toBe(true);
    expect(after("setup", "active", "device").underWay).toBe(true);
    expect(after("setup", "cancelling").underWay).toBe(true);
    expect(after("setup", "active", "device", "completed").underWay).toBe(false);
    expect(after("setup", "cancelling", "cancelled").underWay).toBe(false);
    expect(after("setup", "failing", "failed").underWay).toBe(false);
  });

  test("is in postcopy from the package to the end", () => {
    expect(MIGRATION_STATUSES.filter((status) => isInPostcopy(status))).toEqual([
      "postcopy-device",
      "postcopy-active",
      "postcopy-paused",
      "postcopy-recover-setup",
      "postcopy-recover",
    ]);
    expect(after("setup", "active", "postcopy-device", "postcopy-active", "postcopy-paused").underWay).toBe(
      true,
    );
  });
});
