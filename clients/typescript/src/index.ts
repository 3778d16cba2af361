/**
 * Listens to a Foghorn server with the platform's own EventSource.
 *
 * @module
 */
export { BaseClient, type ListenOptions } from "./base-client.js";
export { FoghornClient } from "./client.js";
export { FoghornError, type FoghornErrorCode, type FoghornErrorDetails, type Problem } from "./error.js";
export { eventSourceTransport } from "./event-source.js";
export type {
  AnyEvents,
  EventHandler,
  FoghornEvent,
  LifecycleListeners,
  Presence,
  Status,
  StreamEvents,
  Unsubscribe,
} from "./events.js";
export type { FoghornOptions, Prepared, StreamChange } from "./options.js";
export type { Loss, RawEvent, Stream, StreamRequest, StreamSink, Transport } from "./transport.js";
