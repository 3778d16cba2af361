import { expect, it } from "vitest";
import { assumedRetry, backoff } from "../../src/backoff.js";

it("waits for anything up to a bound that doubles from one second to thirty", () => {
  const bounds = [0, 1, 2, 3, 4, 5, 6, 1_000].map((attempt) => backoff(attempt, () => 1));
  expect(bounds).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
  expect(backoff(5, () => 0)).toBe(0);
  expect(backoff(5, () => 0.5)).toBe(15_000);
});

it("takes the server's retry to be three seconds, jittered by half either way", () => {
  expect([assumedRetry(() => 0), assumedRetry(() => 1)]).toEqual([1_500, 4_500]);
});
