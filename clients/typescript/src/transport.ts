import type { FoghornError } from "./error.js";

/** An event as it stands in the stream. */
export interface RawEvent {
  readonly type: string;
  readonly data: string;
  /** The last `id:` of the stream so far; empty if there was none. */
  readonly id: string;
}

/** What is to be opened. */
export interface StreamRequest {
  /** The whole URL, with the cursor to go on from. */
  readonly url: string;
  /** Whether cookies are sent to another origin. */
  readonly withCredentials: boolean;
  /** The types that are wanted. A transport that hears all types anyway need not look at it. */
  readonly types: Iterable<string>;
}

/** Why a stream is over, or could not be opened. */
export interface Loss {
  readonly error: FoghornError;
  /** Whether the transport connects again by itself, as EventSource does after most losses. */
  readonly reconnects: boolean;
  /** Whether the same request can't succeed later either. */
  readonly final: boolean;
}

/** Who hears a stream. Nothing is called any more once the stream was closed. */
export interface StreamSink {
  event(event: RawEvent): void;
  /** The cursor has moved without an event. */
  cursor(id: string): void;
  /** The server says how many milliseconds to wait before connecting again. */
  retry(milliseconds: number): void;
  /** Something failed that doesn't end the stream. */
  failed(error: FoghornError): void;
  lost(loss: Loss): void;
}

/** An open stream, or one that is being opened. */
export interface Stream {
  /** Another type is wanted from now on. */
  want(type: string): void;
  close(): void;
}

/** What brings a stream: native EventSource, or `fetch`. */
export interface Transport {
  /** Whether it asks the application for a credential each time that it opens a stream. */
  readonly renews?: boolean;
  /** Opens a stream. Nothing is said to the sink before this has returned. */
  open(request: StreamRequest, sink: StreamSink): Stream;
}
