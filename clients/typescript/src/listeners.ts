import { reportThrown } from "./error.js";

/** Functions that want to be told of one thing. */
export class Listeners<Value> {
  // In wrappers, so that a function may listen twice and each is taken away by itself.
  readonly #listeners = new Set<{ call: (value: Value) => void }>();

  add(call: ((value: Value) => void) | undefined): () => void {
    if (call === undefined) {
      return () => {};
    }
    const listener = { call };
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tell(value: Value): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener.call(value);
      } catch (thrown) {
        reportThrown(thrown);
      }
    }
  }
}
