/** How many ids are remembered: what a reset or a hand-over between tabs can bring again, and a bound. */
const REMEMBERED = 1024;

/** The ids of the latest events, to know one that comes again. */
export class Seen {
  readonly #ids = new Set<string>();

  /** Remembers an id. Says whether it is new. */
  add(id: string): boolean {
    if (this.#ids.has(id)) {
      return false;
    }
    this.#ids.add(id);
    if (this.#ids.size > REMEMBERED) {
      const [oldest] = this.#ids;
      this.#ids.delete(oldest as string);
    }
    return true;
  }

  clear(): void {
    this.#ids.clear();
  }
}
