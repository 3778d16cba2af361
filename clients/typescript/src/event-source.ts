import { FoghornError } from "./error.js";
import type { Stream, StreamRequest, StreamSink, Transport } from "./transport.js";

/** The platform's own EventSource. Reconnects by itself, except after any status but 200. */
export const eventSourceTransport: Transport = {
  open(request: StreamRequest, sink: StreamSink): Stream {
    if (typeof EventSource === "undefined") {
      throw new FoghornError(
        "unsupported",
        "there is no EventSource here: use fetchTransport() from @foghorn/client/fetch",
      );
    }
    const source = new EventSource(request.url, { withCredentials: request.withCredentials });
    const wanted = new Set<string>();

    const hear = (event: Event): void => {
      // Beside events of the stream there are EventSource's own `open` and `error`, which have no data.
      if (event instanceof MessageEvent) {
        sink.event({ type: event.type, data: event.data, id: event.lastEventId });
      }
    };
    const want = (type: string): void => {
      if (!wanted.has(type)) {
        wanted.add(type);
        source.addEventListener(type, hear);
      }
    };
    for (const type of request.types) {
      want(type);
    }
    source.addEventListener("error", (event) => {
      if (event instanceof MessageEvent) {
        return; // An event that was published with the type `error`.
      }
      const reconnects = source.readyState === EventSource.CONNECTING;
      const error = reconnects
        ? new FoghornError("connection-lost", "the connection was lost or could not be made")
        : // EventSource doesn't say which status it was.
          new FoghornError("refused", "the server refused the stream, or answered with something else");
      sink.lost({ error, reconnects, final: false });
    });
    return { want, close: () => source.close() };
  },
};
