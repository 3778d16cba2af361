/** Channels and patterns, each wanted by any number of parties. */
export class Channels {
  readonly #wanted = new Map<string, number>();

  constructor(initial: Iterable<string> = []) {
    this.add(initial);
  }

  /** Wants these once more. Says whether there are new ones among them. */
  add(channels: Iterable<string>): boolean {
    let changed = false;
    for (const channel of channels) {
      const parties = this.#wanted.get(channel) ?? 0;
      this.#wanted.set(channel, parties + 1);
      changed ||= parties === 0;
    }
    return changed;
  }

  /** Wants these once less. Says whether one of them isn't wanted any more. */
  remove(channels: Iterable<string>): boolean {
    let changed = false;
    for (const channel of channels) {
      const parties = this.#wanted.get(channel) ?? 0;
      if (parties > 1) {
        this.#wanted.set(channel, parties - 1);
      } else {
        changed = this.#wanted.delete(channel) || changed;
      }
    }
    return changed;
  }

  /** All of them, in an order that depends on nothing but themselves. */
  list(): string[] {
    return [...this.#wanted.keys()].sort();
  }
}
