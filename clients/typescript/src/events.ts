import type { FoghornError } from "./error.js";

/** An event, as handlers get it beside its data. */
export interface FoghornEvent<T = unknown> {
  /** The type that it was published with; `message` if it was published without one. */
  readonly type: string;
  /** The channel that it was published on. Empty for the stream's own events. */
  readonly channel: string;
  /** The cursor of a listener that has been given this event and everything before it. Opaque. */
  readonly id: string;
  /** When the journal took it (RFC 3339). `undefined` in batches and for the stream's own events. */
  readonly time: string | undefined;
  /** The data: parsed if they are JSON, else the text. */
  readonly data: T;
  /** The data as they came. */
  readonly text: string;
}

/** What an application does with an event. */
export type EventHandler<T = unknown> = (data: T, event: FoghornEvent<T>) => void;

/** Undoes what returned it. Calling it again does nothing. */
export type Unsubscribe = () => void;

/** Types of an application's events that it has not described: anything. */
// biome-ignore lint/suspicious/noExplicitAny: handlers of undescribed events say themselves what they expect.
export type AnyEvents = Record<string, any>;

/**
 * What the stream says about itself, by type. Foghorn's `docs/streams.md` describes each.
 */
export interface StreamEvents {
  /** The stream is open. `recovered`: it goes on from a cursor, and everything after that is there. */
  connected: { clientId: string; timestamp: string; recovered: boolean };
  /**
   * A part of what the cursor asked for is gone. The application should load its state anew; the stream goes
   * on with the earliest event there is. With tab sharing there is also the reason `tabs`.
   */
  "stream-reset": { reason: string };
  /** Caught up; `replayed` events came before this. Also says that the stream isn't stale any more. */
  "stream-live": { replayed: number };
  /** Events may come late; none will be lost. `stream-live` says when that is over. */
  "stream-stale": Record<string, never>;
  /** The credential that the stream was opened with ends then, and the stream with it. */
  "stream-expiring": { expires: string };
  /** The server ends the stream. The client comes back by itself, unless the reason is `ousted`. */
  "stream-end": { reason: string };
  /** A sign of life. */
  heartbeat: { timestamp: string };
}

/**
 * The data of events of the type `presence`, on channels whose policy tells listeners who comes and goes. Foghorn's
 * `docs/streams.md` describes them.
 */
export interface Presence {
  channel: string;
  /** `count`: more has changed than is told one by one. */
  action: "join" | "leave" | "count";
  /** Who joined or left. */
  user?: string;
  /** How many listen now. */
  count: number;
}

/** The stream's own types. */
export const STREAM_EVENTS: ReadonlySet<string> = new Set<keyof StreamEvents>([
  "connected",
  "stream-reset",
  "stream-live",
  "stream-stale",
  "stream-expiring",
  "stream-end",
  "heartbeat",
]);

/**
 * `connected`: events come in. `connecting`: the client is connecting, or waits until it tries again.
 * `disconnected`: it was closed, not opened yet, or has given up.
 */
export type Status = "connecting" | "connected" | "disconnected";

/** What `readyState` is, as EventSource has it. */
export const READY_STATES = { connecting: 0, connected: 1, disconnected: 2 } as const;

/** What a client tells about its connection. */
export interface LifecycleListeners {
  /** Connected; again after each loss. */
  onConnect?: () => void;
  /** No longer connected: the connection was lost, or closed. */
  onDisconnect?: () => void;
  /** Something failed. That alone ends nothing: the status says whether the client still tries. */
  onError?: (error: FoghornError) => void;
  /** The status has changed. */
  onStatus?: (status: Status) => void;
}

/** An event before its data are parsed: what is given from tab to tab. */
export interface Message {
  readonly type: string;
  readonly channel: string;
  readonly id: string;
  readonly time: string | undefined;
  readonly text: string;
}

/** The data of an event: parsed if they are JSON, else the text itself. */
export function parseData(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
