/**
 * A transport over `fetch`: with headers, and where there is no EventSource (Node, some workers).
 *
 * @module
 */
import { FoghornError } from "../error.js";
import type { Stream, StreamRequest, StreamSink, Transport } from "../transport.js";
import { EventStreamParser } from "./parser.js";
import { isFinal, refusal } from "./refusal.js";

export { EventStreamParser, type ParserSink } from "./parser.js";

/** The largest event that a Foghorn server sends, in its envelope, with room to spare. */
const EVENT_LENGTH = 4 * 1024 * 1024;

/** Headers, in any form that `Headers` takes. */
export type HeaderList = Headers | Record<string, string> | [string, string][];

/** How to fetch. */
export interface FetchOptions {
  /**
   * Headers of every request, such as `Authorization`. A function is called before each connection, and may
   * fetch a fresh token.
   */
  headers?: HeaderList | (() => HeaderList | Promise<HeaderList>);
  /** What to use instead of the platform's own `fetch`. */
  fetch?: typeof fetch;
  /**
   * The longest line and the longest data of an event that are kept, in UTF-16 code units; 4 Mi by default.
   * What is longer is left out and told to `onError` (`event-too-large`).
   */
  maxEventLength?: number;
}

/**
 * Brings streams by `fetch`. Unlike EventSource it can send headers, and sees why a stream is refused: the client
 * gives up after what can't succeed later, and tries again after what can.
 */
export function fetchTransport(options: FetchOptions = {}): Transport {
  return {
    renews: typeof options.headers === "function",
    open(request: StreamRequest, sink: StreamSink): Stream {
      const aborter = new AbortController();
      // Once it is closed nobody hears of its errors: the client has left the stream.
      void run(request, sink, options, aborter.signal);
      return { want() {}, close: () => aborter.abort() };
    },
  };
}

async function run(
  request: StreamRequest,
  sink: StreamSink,
  options: FetchOptions,
  signal: AbortSignal,
): Promise<void> {
  const lost = (error: FoghornError, final = false): void => sink.lost({ error, reconnects: false, final });
  let headers: Headers;
  try {
    headers = new Headers(
      await (typeof options.headers === "function" ? options.headers() : options.headers),
    );
  } catch (cause) {
    return lost(new FoghornError("prepare-failed", "the headers could not be had", { cause }));
  }
  headers.set("Accept", "text/event-stream");
  try {
    const response = await (options.fetch ?? fetch)(request.url, {
      headers,
      credentials: request.withCredentials ? "include" : "same-origin",
      cache: "no-store",
      signal,
    });
    if (!isStream(response)) {
      const error = await refusal(response);
      const renews = typeof options.headers === "function";
      return lost(error, isFinal(response.status) && !(response.status === 401 && renews));
    }
    await read(response.body, sink, options.maxEventLength ?? EVENT_LENGTH, signal);
    lost(new FoghornError("connection-lost", "the stream ended"));
  } catch (cause) {
    lost(new FoghornError("connection-lost", "the connection was lost or could not be made", { cause }));
  }
}

function isStream(response: Response): response is Response & { body: ReadableStream<Uint8Array> } {
  const type = response.headers.get("content-type") ?? "";
  return response.status === 200 && response.body !== null && /^text\/event-stream\s*(;|$)/i.test(type);
}

async function read(
  body: ReadableStream<Uint8Array>,
  sink: StreamSink,
  bound: number,
  signal: AbortSignal,
): Promise<void> {
  const parser = new EventStreamParser(bound, {
    event: (event) => sink.event(event),
    cursor: (id) => sink.cursor(id),
    retry: (milliseconds) => sink.retry(milliseconds),
    tooLarge: (id) => {
      sink.failed(new FoghornError("event-too-large", `an event was longer than ${bound}, and left out`));
      sink.cursor(id);
    },
  });
  // Takes a byte order mark away, and replaces what is no UTF-8.
  const decoder = new TextDecoder();
  const reader = body.getReader();
  while (!signal.aborted) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    parser.feed(decoder.decode(value, { stream: true }));
  }
}
