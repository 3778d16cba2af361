import { Channels } from "./channels.js";
import type { FoghornError } from "./error.js";
import {
  type EventHandler,
  type LifecycleListeners,
  type Message,
  parseData,
  READY_STATES,
  STREAM_EVENTS,
  type Status,
  type StreamEvents,
  type Unsubscribe,
} from "./events.js";
import { Handlers } from "./handlers.js";
import { Listeners } from "./listeners.js";
import { Seen } from "./seen.js";

/** How to listen. */
export interface ListenOptions {
  /** Only events on this channel, or on those that this pattern covers. It is not subscribed to by that. */
  channel?: string;
}

/**
 * What every client is for those who listen, wherever its events come from: handlers, channels, status.
 * `FoghornClient` has a connection of its own, `SharedFoghornClient` one with other tabs.
 *
 * `Events` describes the application's events: `{ notification: Notification }`.
 */
export abstract class BaseClient<Events extends object> {
  readonly #handlers = new Handlers();
  readonly #channels: Channels;
  readonly #seen = new Seen();
  readonly #connects = new Listeners<void>();
  readonly #disconnects = new Listeners<void>();
  readonly #errors = new Listeners<FoghornError>();
  readonly #statuses = new Listeners<Status>();
  #status: Status = "disconnected";
  #clientId: string | undefined;
  #lastEventId: string;

  protected constructor(listeners: LifecycleListeners, channels: Iterable<string>, lastEventId: string) {
    this.#channels = new Channels(channels);
    this.#lastEventId = lastEventId;
    this.#connects.add(listeners.onConnect);
    this.#disconnects.add(listeners.onDisconnect);
    this.#errors.add(listeners.onError);
    this.#statuses.add(listeners.onStatus);
  }

  /** Connects, unless it is connected or at it already. */
  abstract connect(): void;

  /** Closes the connection. Handlers stay, and `connect()` goes on from the last event. */
  abstract close(): void;

  /**
   * Calls `handler` with the data of each event of a type, and with the event itself. `message` is the type of
   * events without one. Gives what ends that.
   */
  on<Type extends keyof StreamEvents>(
    type: Type,
    handler: EventHandler<StreamEvents[Type]>,
    options?: ListenOptions,
  ): Unsubscribe;
  on<Type extends keyof Events & string>(
    type: Type,
    handler: EventHandler<Events[Type]>,
    options?: ListenOptions,
  ): Unsubscribe;
  // biome-ignore lint/suspicious/noExplicitAny: the overloads above say what a handler is given.
  on(type: string, handler: EventHandler<any>, options: ListenOptions = {}): Unsubscribe {
    const remove = this.#handlers.add(type, handler, options.channel);
    this.wantType(type);
    return remove;
  }

  /** Ends what `on` began with the same type and handler. */
  // biome-ignore lint/suspicious/noExplicitAny: any handler may be taken away.
  off(type: (keyof Events & string) | keyof StreamEvents, handler: EventHandler<any>): void {
    this.#handlers.remove(type, handler);
  }

  /**
   * Listens to more channels or patterns from now on. A channel that is subscribed to several times is listened
   * to until each is undone, by what this gives or by `unsubscribe`.
   */
  subscribe(...channels: string[]): Unsubscribe {
    if (this.#channels.add(channels)) {
      this.changeChannels();
    }
    let undone = false;
    return () => {
      if (!undone) {
        undone = true;
        this.unsubscribe(...channels);
      }
    };
  }

  /** Undoes one `subscribe` of each of these. */
  unsubscribe(...channels: string[]): void {
    if (this.#channels.remove(channels)) {
      this.changeChannels();
    }
  }

  /** Calls `listener` whenever the client has connected. */
  onConnect(listener: () => void): Unsubscribe {
    return this.#connects.add(listener);
  }

  /** Calls `listener` whenever the client isn't connected any more. */
  onDisconnect(listener: () => void): Unsubscribe {
    return this.#disconnects.add(listener);
  }

  /** Calls `listener` with each error. */
  onError(listener: (error: FoghornError) => void): Unsubscribe {
    return this.#errors.add(listener);
  }

  /** Calls `listener` with each new status. */
  onStatus(listener: (status: Status) => void): Unsubscribe {
    return this.#statuses.add(listener);
  }

  get status(): Status {
    return this.#status;
  }

  get isConnected(): boolean {
    return this.#status === "connected";
  }

  /** The status as EventSource has it: 0 connecting, 1 open, 2 closed. */
  get readyState(): 0 | 1 | 2 {
    return READY_STATES[this.#status];
  }

  /** The server's name for the stream; `undefined` before there was one. */
  get clientId(): string | undefined {
    return this.#clientId;
  }

  /** The cursor: everything up to here was given to the handlers. Empty before the first. */
  get lastEventId(): string {
    return this.#lastEventId;
  }

  /** The channels and patterns that are subscribed to. */
  get channels(): readonly string[] {
    return this.#channels.list();
  }

  /** Somebody listens to this type now. */
  protected abstract wantType(type: string): void;

  /** The channels are others now. */
  protected abstract changeChannels(): void;

  /** The types that somebody listens to. */
  protected types(): Iterable<string> {
    return this.#handlers.types();
  }

  /** Gives an event to its handlers, unless they had it. */
  protected deliver(message: Message): void {
    const isOfStream = STREAM_EVENTS.has(message.type);
    if (!isOfStream && message.id !== "" && !this.#seen.add(`${message.id} ${message.channel}`)) {
      return;
    }
    this.moveCursor(message.id);
    if (message.type === "connected") {
      this.#clientId = (parseData(message.text) as Partial<StreamEvents["connected"]> | null)?.clientId;
    }
    this.#handlers.dispatch(message.type, message.channel, () => ({
      ...message,
      data: parseData(message.text),
    }));
  }

  /** Everything up to this cursor was given. */
  protected moveCursor(cursor: string): void {
    if (cursor !== "") {
      this.#lastEventId = cursor;
    }
  }

  protected setStatus(status: Status): void {
    const before = this.#status;
    if (status === before) {
      return;
    }
    this.#status = status;
    this.#statuses.tell(status);
    if (status === "connected") {
      this.#connects.tell();
    } else if (before === "connected") {
      this.#disconnects.tell();
    }
  }

  /** Tells of an error. */
  protected fail(error: FoghornError): void {
    this.#errors.tell(error);
  }
}
