import { FoghornClient } from "../client.js";
import type { FoghornError } from "../error.js";
import { type FoghornEvent, type Message, STREAM_EVENTS, type Status, type Unsubscribe } from "../events.js";
import type { FoghornOptions } from "../options.js";
import { coversAny } from "../pattern.js";
import type { Wants } from "./messages.js";

/** Who hears what the leader's stream brings: all tabs, the leading one included. */
export interface LeaderSink {
  /** `isImplied`: no tab has subscribed to its channel. */
  event(message: Message, isImplied: boolean): void;
  status(status: Status): void;
  error(error: FoghornError): void;
}

/** The part of the leading tab that holds the connection, for what all tabs want together. */
export class Leader {
  readonly #client: FoghornClient;
  readonly #sink: LeaderSink;
  /** What takes away what each tab is subscribed to. */
  readonly #tabs = new Map<string, Unsubscribe>();
  readonly #types = new Set<string>();

  /** Connects at once. `wants` are those of all tabs that are known. */
  constructor(options: FoghornOptions, wants: readonly Wants[], cursor: string, sink: LeaderSink) {
    this.#client = new FoghornClient({ ...options, lastEventId: cursor });
    this.#sink = sink;
    for (const type of STREAM_EVENTS) {
      this.#forward(type);
    }
    for (const each of wants) {
      this.serve(each);
    }
    this.#client.onStatus((status) => sink.status(status));
    this.#client.onError((error) => sink.error(error));
    this.#client.connect();
  }

  get status(): Status {
    return this.#client.status;
  }

  /** The tabs that are served. */
  get tabs(): string[] {
    return [...this.#tabs.keys()];
  }

  /** Serves what a tab wants from now on, in place of what it wanted before. Says whether the tab is new. */
  serve({ tab, channels, types }: Wants): boolean {
    const before = this.#tabs.get(tab);
    // The new ones first: what stays must not be given up in between.
    this.#tabs.set(tab, this.#client.subscribe(...channels));
    before?.();
    for (const type of types) {
      this.#forward(type);
    }
    return before === undefined;
  }

  /** Forgets a tab that is gone. */
  leave(tab: string): void {
    this.#tabs.get(tab)?.();
    this.#tabs.delete(tab);
  }

  connect(): void {
    this.#client.connect();
  }

  close(): void {
    this.#client.close();
  }

  #forward(type: string): void {
    if (!this.#types.has(type)) {
      this.#types.add(type);
      this.#client.on(type, (_data: unknown, { data: _, ...message }: FoghornEvent) => {
        const isImplied = !coversAny(this.#client.channels, message.channel);
        this.#sink.event(message, isImplied);
      });
    }
  }
}
