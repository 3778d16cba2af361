/** Channels and patterns, each wanted by any number of parties. */
export class Channels {
  readonly #wanted = new Map<string, number>();
  /** Made when it is asked for, until they change. */
  #list: readonly string[] | undefined;

  constructor(initial: Iterable<string> = []) {
    this.add(initial);
  }

  /** Wants these once more. Says whether there are new ones among them. */
  add(channels: Iterable<string>): boolean {
    let changed = false;
    for (const channel of channels) {
      const parties = this.#wanted.get(channel) ?? 0;
      this.#wanted.set(channel, parties + 1);
      this.#list = undefined;
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
        this.#list = undefined;
      }
    }
    return changed;
  }

  /** All of them, in an order that depends on nothing but themselves. */
  list(): readonly string[] {
    this.#list ??= [...this.#wanted.keys()].sort();
    return this.#list;
  }
}
