import { expect, it } from "vitest";
import { covers } from "../../src/pattern.js";

it.each([
  ["orders", "orders", true],
  ["orders", "orders.eu", false],
  ["orders.eu", "orders", false],
  ["orders.*", "orders.eu", true],
  ["orders.*", "orders", false],
  ["orders.*", "orders.eu.42", false],
  ["*.eu", "orders.eu", true],
  ["*.eu", "orders.us", false],
  ["orders.>", "orders.eu.42", true],
  ["orders.>", "orders", false],
  [">", "orders", true],
  ["*", "orders.eu", false],
  ["orders.*.paid", "orders.eu.paid", true],
  ["", "orders", false],
  ["orders", "", false],
  [">", "", false],
])("%s covers %s: %s", (pattern, channel, expected) => {
  expect(covers(pattern, channel)).toBe(expected);
});
