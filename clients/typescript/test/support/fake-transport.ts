import {
  FoghornError,
  type RawEvent,
  type StreamRequest,
  type StreamSink,
  type Transport,
} from "../../src/index.js";

/** A stream that a test plays the server of. */
export class FakeStream {
  readonly url: URL;
  readonly wanted: Set<string>;
  closed = false;
  #ids = 0;

  constructor(
    readonly request: StreamRequest,
    readonly sink: StreamSink,
  ) {
    this.url = new URL(request.url);
    this.wanted = new Set(request.types);
  }

  query(key: string): string | null {
    return this.url.searchParams.get(key);
  }

  send(type: string, data: unknown, id = ""): void {
    const event: RawEvent = { type, data: typeof data === "string" ? data : JSON.stringify(data), id };
    this.sink.event(event);
  }

  connect(id = "c0", recovered = false): void {
    this.send("connected", { clientId: `client-${id}`, timestamp: "2026-02-03T04:05:06Z", recovered }, id);
  }

  /** An event in its envelope. */
  event(type: string, channel: string, data: unknown, id = `e${++this.#ids}`): void {
    const text = typeof data === "string" ? data : JSON.stringify(data);
    this.send(type, { channel, event: type, time: "2026-02-03T04:05:06.789Z", data: text }, id);
  }

  lose(loss: { reconnects?: boolean; final?: boolean; status?: number } = {}): void {
    const { reconnects = false, final = false, status } = loss;
    const error = new FoghornError("connection-lost", "lost", status === undefined ? {} : { status });
    this.sink.lost({ error, reconnects, final });
  }
}

/** A transport whose streams a test plays the server of. */
export class FakeTransport implements Transport {
  readonly streams: FakeStream[] = [];

  constructor(readonly renews = false) {}

  open(request: StreamRequest, sink: StreamSink) {
    const stream = new FakeStream(request, sink);
    this.streams.push(stream);
    return {
      want: (type: string) => void stream.wanted.add(type),
      close: () => {
        stream.closed = true;
      },
    };
  }

  /** The newest stream. */
  get last(): FakeStream {
    const stream = this.streams.at(-1);
    if (stream === undefined) {
      throw new Error("nothing was opened");
    }
    return stream;
  }

  /** The streams that were not closed. */
  get unclosed(): FakeStream[] {
    return this.streams.filter((stream) => !stream.closed);
  }
}
