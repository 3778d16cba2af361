import type { LifecycleListeners } from "./events.js";
import type { Transport } from "./transport.js";

/** What `prepare` gives: another URL, or nothing. */
// biome-ignore lint/suspicious/noConfusingVoidType: a function that gives nothing is what most will write.
export type Prepared = string | URL | void;

/** An open stream, and what it is to hear from now on. */
export interface StreamChange {
  /** The URL that the stream was opened with. */
  readonly url: string;
  /** The server's name for the stream. */
  readonly clientId: string;
  /** All channels and patterns that it is to hear, beside those that everybody hears without asking. */
  readonly channels: readonly string[];
  /** Whether cookies are sent to another origin. */
  readonly withCredentials: boolean;
}

/** Where a client listens, and how. */
export interface FoghornOptions extends LifecycleListeners {
  /**
   * The stream's address; `/api/events` by default, of the page's own origin. Its query is kept, and channels
   * in it are listened to.
   */
  url?: string | URL;
  /**
   * Channels (`orders.eu.42`) and patterns (`orders.*`, `orders.>`) to listen to, beside those that everybody
   * hears without asking. `subscribe` adds more.
   */
  channels?: Iterable<string>;
  /** Only these types are sent, beside the stream's own; all by default. */
  events?: Iterable<string>;
  /** Begin with the events since then: how long ago (`10m`, `2h`), or RFC 3339. Only for the first connection. */
  since?: string;
  /** Begin with the newest so many events of each channel. Only for the first connection. */
  last?: number;
  /** Begin after this cursor: a `lastEventId` that was kept from an earlier client. */
  lastEventId?: string;
  /** Have the server gather events for so many milliseconds, which saves wake-ups. They are unpacked here. */
  batch?: number;
  /**
   * Called with the text of each event, and gives what its data are parsed from: `decompress()` of
   * `@foghorn/client/compression`. Events keep their order, also where it gives a promise. An event that it fails for
   * is left out and told to `onError` (`decode-failed`).
   */
  decode?: (text: string) => string | Promise<string>;
  /** Send cookies also to another origin than the page's. */
  withCredentials?: boolean;
  /**
   * Called before each connection with the URL that is about to be opened, cursor included: to renew a cookie,
   * or to put a fresh ticket or token into the query. It may change the URL in place, or give another. With it,
   * the client makes all reconnects itself, instead of leaving most of them to EventSource, and connects anew
   * when the server says that the stream's credential is about to end.
   */
  prepare?: (url: URL) => Prepared | Promise<Prepared>;
  /**
   * Changes what an open stream hears, so that `subscribe` and `unsubscribe` need no new connection: `liveChanges()`
   * of `@foghorn/client/live`. What it gives is fulfilled once the change holds, and rejected when it doesn't, or may
   * not: the client connects anew then, as it does without it. Called again only after that.
   */
  change?: (change: StreamChange) => Promise<unknown>;
  /** What brings the stream: native EventSource, unless it is another, such as `fetchTransport()`. */
  transport?: Transport;
  /** How many attempts in a row may fail before the client gives up; without end by default. */
  maxRetries?: number;
  /**
   * After how many milliseconds without event or heartbeat the connection is taken for dead and made anew;
   * 90,000 by default, which is two heartbeats of a server that has nothing else to say. 0 asks for no
   * heartbeats, and leaves dead connections unnoticed.
   */
  heartbeatTimeout?: number;
}
