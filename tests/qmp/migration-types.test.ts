import { expect, test } from "vitest";
import * as v from "valibot";
import { migrationInfoSchema } from "../../src/qmp/migration-types.js";

test("every field of query-migrate passes the check", () => {
  const numbers = {
    remaining: 1,
    "total-time": 2,
    "expected-downtime": 3,
    downtime: 4,
    "setup-time": 5,
    "cpu-throttle-percentage": 6,
    "postcopy-blocktime": 7,
    "postcopy-latency": 8,
    "postcopy-non-vcpu-latency": 9,
    "dirty-limit-throttle-time-per-round": 10,
    "dirty-limit-ring-full-time": 11,
  };
  const info = {
    ...numbers,
    status: "active",
    ram: { transferred: 1, remaining: 2, total: 3, "page-size": 4096 },
    vfio: { transferred: 12 },
    "xbzrle-cache": {
      "cache-size": 67108864,
      bytes: 1,
      pages: 2,
      "cache-miss": 3,
      "cache-miss-rate": 0.5,
      "encoding-rate": 1.5,
      overflow: 4,
    },
    "error-desc": "",
    "blocked-reasons": ["a"],
    "postcopy-vcpu-blocktime": [1],
    "postcopy-latency-dist": [2],
    "postcopy-vcpu-latency": [3],
    "socket-address": [
      { type: "inet", host: "::1", port: "4444", ipv6: true },
      { type: "unix", path: "/x" },
      { type: "vsock", cid: "1", port: "2" },
      { type: "fd", str: "a" },
    ],
  };
  expect(v.parse(migrationInfoSchema, info)).toEqual(info);
});

test("an address of a kind that a later QEMU may bring makes no answer fail", () => {
  const known = { type: "unix", path: "/x" };
  const info = { status: "setup", "socket-address": [{ type: "pigeon", loft: 1 }, known] };
  expect(v.parse(migrationInfoSchema, info)).toEqual({ status: "setup", "socket-address": [known] });
});
