/** How many events are remembered: what a reset or a hand-over between tabs can bring again, and a bound. */
const REMEMBERED = 1024;

/**
 * The latest events by id and channel, to know one that comes again. An id alone doesn't tell: it is a position in all
 * shards of a subscription, and with other channels another event can be what brings a listener there.
 */
export class Seen {
  readonly #events = new Set<string>();

  /** Remembers an event. Says whether it is new. */
  add(event: string): boolean {
    if (this.#events.has(event)) {
      return false;
    }
    this.#events.add(event);
    if (this.#events.size > REMEMBERED) {
      const [oldest] = this.#events;
      this.#events.delete(oldest as string);
    }
    return true;
  }
}
