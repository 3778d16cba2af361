/** The first attempt waits up to this. */
const FIRST_MS = 1_000;
/** No attempt waits longer. */
const LONGEST_MS = 30_000;

/**
 * How many milliseconds to wait before an attempt, the first being 0: anything from nothing to a bound that
 * doubles from one second to thirty ("full jitter"), so that clients that lost their server together don't come
 * back together.
 */
export function backoff(attempt: number, random: () => number = Math.random): number {
  return random() * Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt);
}

/** What the server's `retry:` is when it can't be seen: 3 seconds and up to half of that more or less. */
export function assumedRetry(random: () => number = Math.random): number {
  return 1_500 + random() * 3_000;
}
