import { expect, it } from "vitest";
import { Seen } from "../../src/seen.js";

it("knows the latest 1,024 ids, and forgets the oldest for the next", () => {
  const seen = new Seen();
  for (let n = 0; n < 1024; n++) {
    expect(seen.add(String(n))).toBe(true);
  }
  expect(seen.add("0")).toBe(false);
  expect(seen.add("1024")).toBe(true);
  expect(seen.add("1")).toBe(false);
  expect(seen.add("0")).toBe(true);
});
