import type { FoghornError } from "../error.js";
import { type FoghornEvent, READY_STATES, type Status, type Unsubscribe } from "../events.js";
import type { Connection } from "./connection.js";

/** What `useEvents` gives. */
export interface EventsResult<T> {
  /** The newest event's data; `null` before the first. */
  readonly data: T | null;
  /** The newest event; `null` before the first. */
  readonly event: FoghornEvent<T> | null;
  /** The newest events, the newest first; as many as `limit` says. */
  readonly events: readonly FoghornEvent<T>[];
  /** What failed last, until the client is connected again. */
  readonly error: FoghornError | null;
  readonly status: Status;
  /** The status as EventSource has it: 0 connecting, 1 open, 2 closed. */
  readonly readyState: 0 | 1 | 2;
  /** Ends listening, of this hook only. */
  readonly close: () => void;
}

/** A status in both of its forms. */
function both(status: Status): Pick<EventsResult<unknown>, "status" | "readyState"> {
  return { status, readyState: READY_STATES[status] };
}

/** The newest events of one type on one channel, for `useSyncExternalStore`. */
export class EventStore<T> {
  readonly #connection: Connection;
  readonly #channel: string | null;
  readonly #type: string;
  readonly #limit: number;
  #end: Unsubscribe | undefined;
  #isClosed = false;
  #result: EventsResult<T>;

  constructor(connection: Connection, channel: string | null, type: string, limit: number) {
    this.#connection = connection;
    this.#channel = channel;
    this.#type = type;
    this.#limit = limit;
    this.#result = {
      data: null,
      event: null,
      events: [],
      error: null,
      ...both(connection.getStatus()),
      close: () => this.#close(),
    };
  }

  readonly get = (): EventsResult<T> => this.#result;

  readonly subscribe = (onChange: () => void): Unsubscribe => {
    if (this.#isClosed) {
      return () => {};
    }
    const change = (changes: Partial<EventsResult<T>>): void => {
      this.#result = { ...this.#result, ...changes };
      onChange();
    };
    const { client } = this.#connection;
    const undo = [
      this.#connection.listen<T>(this.#channel, this.#type, (data, event) => {
        change({ data, event, events: [event, ...this.#result.events].slice(0, this.#limit) });
      }),
      client.onStatus((status) => {
        const settled = status === "connected" ? { error: null } : {};
        change({ ...both(status), ...settled });
      }),
      client.onError((error) => change({ error })),
    ];
    this.#end = () => {
      for (const each of undo.splice(0)) {
        each();
      }
    };
    this.#onClose = () => change(both("disconnected"));
    // It may have changed between rendering and now.
    const status = this.#connection.getStatus();
    if (status !== this.#result.status) {
      change(both(status));
    }
    return this.#end;
  };

  #onClose = (): void => {};

  #close(): void {
    if (!this.#isClosed) {
      this.#isClosed = true;
      this.#end?.();
      this.#onClose();
    }
  }
}
