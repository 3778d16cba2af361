import { reportThrown } from "./error.js";
import type { EventHandler, FoghornEvent } from "./events.js";
import { covers } from "./pattern.js";

// biome-ignore lint/suspicious/noExplicitAny: what a type's handlers expect is checked where they are added.
type AnyHandler = EventHandler<any>;

interface Registration {
  readonly handler: AnyHandler;
  /** Only events on the channels that this pattern covers; all if it is `undefined`. */
  readonly channel: string | undefined;
}

/** An application's handlers, by event type. */
export class Handlers {
  readonly #byType = new Map<string, Set<Registration>>();

  /** Adds a handler, unless the type has it already for the same channel. Gives what takes it away. */
  add(type: string, handler: AnyHandler, channel: string | undefined): () => void {
    const registrations = this.#byType.get(type) ?? new Set();
    this.#byType.set(type, registrations);
    for (const present of registrations) {
      if (present.handler === handler && present.channel === channel) {
        return () => this.#delete(type, present);
      }
    }
    const registration = { handler, channel };
    registrations.add(registration);
    return () => this.#delete(type, registration);
  }

  /** Takes a handler of a type away, for all channels. */
  remove(type: string, handler: AnyHandler): void {
    for (const registration of this.#byType.get(type) ?? []) {
      if (registration.handler === handler) {
        this.#delete(type, registration);
      }
    }
  }

  /** The types that have a handler. */
  types(): Iterable<string> {
    return this.#byType.keys();
  }

  /** Calls the handlers of an event. `open` makes it, if there are any: data that nobody wants aren't parsed. */
  dispatch(type: string, channel: string, open: () => FoghornEvent): void {
    const registrations = this.#byType.get(type);
    if (registrations === undefined) {
      return;
    }
    let event: FoghornEvent | undefined;
    // A copy: handlers add and remove handlers. One that was removed meanwhile isn't called.
    for (const registration of [...registrations]) {
      const wanted = registration.channel === undefined || covers(registration.channel, channel);
      if (wanted && registrations.has(registration)) {
        event ??= open();
        try {
          registration.handler(event.data, event);
        } catch (thrown) {
          reportThrown(thrown);
        }
      }
    }
  }

  #delete(type: string, registration: Registration): void {
    const registrations = this.#byType.get(type);
    registrations?.delete(registration);
    if (registrations?.size === 0) {
      this.#byType.delete(type);
    }
  }
}
