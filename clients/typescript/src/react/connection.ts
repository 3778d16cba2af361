import type { BaseClient } from "../base-client.js";
import type { EventHandler, Status, Unsubscribe } from "../events.js";

// biome-ignore lint/suspicious/noExplicitAny: hooks say themselves what they expect of events.
export type AnyClient = BaseClient<any>;

/** The client of a provider, as hooks see it. */
export class Connection {
  readonly client: AnyClient;
  /** Whether the provider made the client, and so ends it. */
  readonly #isOwn: boolean;
  /** Whether it was connected at all. Until then it is as good as connecting: it will be, after this render. */
  #hasBegun: boolean;
  #closing: ReturnType<typeof setTimeout> | undefined;

  constructor(client: AnyClient, isOwn: boolean) {
    this.client = client;
    this.#isOwn = isOwn;
    this.#hasBegun = client.status !== "disconnected";
  }

  /** The provider is mounted. Gives what to do when it goes. */
  begin(): Unsubscribe {
    clearTimeout(this.#closing);
    this.#hasBegun = true;
    this.client.connect();
    return () => {
      if (this.#isOwn) {
        // Not at once: StrictMode and fast refresh take a provider away and put it back in the same moment.
        this.#closing = setTimeout(() => this.client.close());
      }
    };
  }

  readonly watchStatus = (onChange: () => void): Unsubscribe => this.client.onStatus(onChange);

  readonly getStatus = (): Status => (this.#hasBegun ? this.client.status : "connecting");

  /** Listens to a type on a channel, which is subscribed to for as long; to all channels if it is `null`. */
  listen<T>(channel: string | null, type: string, handler: EventHandler<T>): Unsubscribe {
    const unsubscribe = channel === null ? undefined : this.client.subscribe(channel);
    const off = this.client.on(type, handler, channel === null ? {} : { channel });
    return () => {
      off();
      unsubscribe?.();
    };
  }
}
