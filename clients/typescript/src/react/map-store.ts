import type { Unsubscribe } from "../events.js";
import type { Connection } from "./connection.js";

/** The newest data of several types, for `useSyncExternalStore`. */
export class MapStore<T> {
  readonly #connection: Connection;
  readonly #channel: string | null;
  readonly #types: readonly string[];
  #map: ReadonlyMap<string, T> = new Map();

  constructor(connection: Connection, channel: string | null, types: readonly string[]) {
    this.#connection = connection;
    this.#channel = channel;
    this.#types = types;
  }

  readonly get = (): ReadonlyMap<string, T> => this.#map;

  readonly subscribe = (onChange: () => void): Unsubscribe => {
    const undo = this.#types.map((type) =>
      this.#connection.listen<T>(this.#channel, type, (data) => {
        this.#map = new Map(this.#map).set(type, data);
        onChange();
      }),
    );
    return () => {
      for (const each of undo) {
        each();
      }
    };
  };
}
