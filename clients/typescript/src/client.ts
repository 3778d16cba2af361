import { assumedRetry, backoff } from "./backoff.js";
import { BaseClient } from "./base-client.js";
import { unpackBatch, unpackEnvelope } from "./envelope.js";
import { FoghornError } from "./error.js";
import { eventSourceTransport } from "./event-source.js";
import { type AnyEvents, type Message, parseData, STREAM_EVENTS, type StreamEvents } from "./events.js";
import type { FoghornOptions } from "./options.js";
import type { Loss, RawEvent, Stream, StreamSink, Transport } from "./transport.js";
import { readUrl, streamUrl } from "./url.js";
import { LONGEST_TIMER_MS, Watchdog } from "./watchdog.js";

/** Two heartbeats of a quiet stream, of a server that is configured as it comes. */
const HEARTBEAT_TIMEOUT_MS = 90_000;
/** Changes of channels within this are one. */
const CHANNELS_MS = 50;
/** A credential that ends is renewed within this, or sooner. */
const RENEW_MS = 15_000;

/**
 * A client with a connection of its own. It does nothing until `connect()`, comes back by itself after every
 * loss, and goes on where it was: no event is lost in between, and none comes twice.
 *
 * ```ts
 * const client = new FoghornClient<{ paid: Payment }>({ channels: ["orders.*"] });
 * client.on("paid", (payment, { channel }) => show(channel, payment));
 * client.on("stream-reset", () => reload());
 * client.connect();
 * ```
 */
export class FoghornClient<Events extends object = AnyEvents> extends BaseClient<Events> {
  readonly #options: FoghornOptions;
  readonly #address: string;
  readonly #transport: Transport;
  readonly #watchdog: Watchdog;
  #stream: Stream | undefined;
  /** Counts what was opened: what an earlier stream still says is nobody's business. */
  #opened = 0;
  /** The stream's URL, as it was opened. */
  #url = "";
  /** The server's name for the stream, while it can be changed. */
  #live: string | undefined;
  /** Whether the stream hears other channels than its URL says, or may: a reconnect of its own would undo that. */
  #isChanged = false;
  /** Whether a change is under way. */
  #isChanging = false;
  /** Whether there is neither a stream nor one that is being prepared, only a time at which to open one. */
  #waiting = false;
  /** When to open a stream, or another one in place of the one there is. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When to look whether the channels are still those that were asked for. */
  #channelsTimer: ReturnType<typeof setTimeout> | undefined;
  /** The channels that were asked for. */
  #asked: readonly string[] = [];
  /** Attempts that failed since the client was last connected. */
  #failures = 0;
  /** What the server said last to wait before connecting again. */
  #retry: number | undefined;
  /** The end that was answered with a new stream already. */
  #renewedFor: string | undefined;
  /** Settles when what the stream has brought is dealt with; there is none while it all is. */
  #working: Promise<void> | undefined;

  constructor(options: FoghornOptions = {}) {
    const { address, channels } = readUrl(options);
    super(options, [...channels, ...(options.channels ?? [])], options.lastEventId ?? "");
    this.#options = options;
    this.#address = address;
    this.#transport = options.transport ?? eventSourceTransport;
    this.#watchdog = new Watchdog(options.heartbeatTimeout ?? HEARTBEAT_TIMEOUT_MS, () => this.#silence());
  }

  override connect(): void {
    if (this.status !== "disconnected") {
      return;
    }
    this.#failures = 0;
    globalThis.addEventListener?.("online", this.#online);
    this.setStatus("connecting");
    try {
      this.#open();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  override close(): void {
    this.#drop();
    globalThis.removeEventListener?.("online", this.#online);
    this.setStatus("disconnected");
  }

  protected override wantType(type: string): void {
    this.#stream?.want(type);
  }

  protected override changeChannels(): void {
    // Whoever waits will ask for the new channels by then.
    if (this.status !== "disconnected" && !this.#waiting) {
      clearTimeout(this.#channelsTimer);
      this.#channelsTimer = setTimeout(() => {
        if (!this.#isChanging && this.channels.join() !== this.#asked.join()) {
          void this.#change();
        }
      }, CHANNELS_MS);
    }
  }

  /** Has the channels heard that are wanted now: by the stream there is, or if that can't be had, by another. */
  async #change(): Promise<void> {
    const { change, withCredentials = false, heartbeatTimeout } = this.#options;
    const [url, clientId] = [this.#url, this.#live];
    // Only a heartbeat tells the page where a changed stream is: it may be at places that no earlier cursor knows of.
    if (change === undefined || clientId === undefined || heartbeatTimeout === 0) {
      return this.#open();
    }
    const opened = this.#opened;
    this.#asked = this.channels;
    this.#isChanged = true;
    this.#isChanging = true;
    try {
      await change({ url, clientId, channels: this.#asked, withCredentials });
    } catch {
      if (opened === this.#opened) {
        this.#open();
      }
    }
    if (opened === this.#opened) {
      this.#isChanging = false;
      this.changeChannels();
    }
  }

  #open(): void {
    if (this.readyState === 2) {
      return; // Whoever was told that the client connects has closed it.
    }
    this.#drop();
    this.#asked = this.channels;
    // What follows the dot names what a stream was changed to: the address says that by itself here, also to a server
    // that has forgotten it.
    const cursor = this.#options.change ? this.lastEventId.replace(/\..*/, "") : this.lastEventId;
    const url = streamUrl(this.#address, this.#options, this.#asked, cursor);
    // Also of the way there: a connection that is never answered is as dead as one that falls silent.
    this.#watchdog.heard();
    if (this.#options.prepare === undefined) {
      this.#start(url.href);
    } else {
      this.#prepareAndStart(this.#options.prepare, url);
    }
  }

  async #prepareAndStart(prepare: NonNullable<FoghornOptions["prepare"]>, url: URL): Promise<void> {
    const opened = this.#opened;
    try {
      const prepared = String((await prepare(url)) ?? url);
      if (opened === this.#opened) {
        this.#start(prepared);
      }
    } catch (cause) {
      if (opened === this.#opened) {
        const error =
          cause instanceof FoghornError
            ? cause
            : new FoghornError("prepare-failed", "prepare failed", { cause });
        this.#lost({ error, reconnects: false, final: error.code === "unsupported" });
      }
    }
  }

  #start(url: string): void {
    const opened = this.#opened;
    this.#url = url;
    const ifOpen =
      <Value>(hear: (value: Value) => void) =>
      (value: Value): void => {
        if (opened === this.#opened) {
          hear(value);
        }
      };
    const sink: StreamSink = {
      event: ifOpen((event) => this.#event(event)),
      cursor: ifOpen((id) => {
        this.#watchdog.heard();
        this.#inOrder(() => this.moveCursor(id));
      }),
      retry: ifOpen((milliseconds) => {
        this.#retry = milliseconds;
      }),
      failed: ifOpen((error) => this.fail(error)),
      lost: ifOpen((loss) => this.#lost(loss)),
    };
    const types = new Set([...STREAM_EVENTS, "batch", ...this.types()]);
    const withCredentials = this.#options.withCredentials ?? false;
    this.#stream = this.#transport.open({ url, withCredentials, types }, sink);
  }

  /** Leaves the stream there is, and whatever was to be done about it. */
  #drop(): void {
    this.#opened += 1;
    this.#waiting = false;
    this.#live = undefined;
    this.#isChanged = false;
    this.#isChanging = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#channelsTimer);
    this.#watchdog.stop();
    this.#stream?.close();
    this.#stream = undefined;
  }

  #openIn(milliseconds: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), Math.min(milliseconds, LONGEST_TIMER_MS));
  }

  #event(raw: RawEvent): void {
    this.#watchdog.heard();
    if (STREAM_EVENTS.has(raw.type)) {
      this.#inOrder(() => this.#streamEvent(raw));
    } else {
      const opened = this.#opened;
      for (const message of raw.type === "batch" ? unpackBatch(raw) : [unpackEnvelope(raw)]) {
        this.#inOrder(() => this.#decodeAndDeliver(message), opened);
      }
    }
  }

  /**
   * Does what is to be done about a part of the stream, after all before it: at once, unless that waits for
   * something. Nothing is done any more once the client has left the stream: a handler may have closed it, and it will
   * be given the rest when it comes back.
   */
  #inOrder(work: () => void | Promise<void>, opened = this.#opened): void {
    const ifOpen = (): void | Promise<void> => (opened === this.#opened ? work() : undefined);
    const working = this.#working === undefined ? ifOpen() : this.#working.then(ifOpen);
    if (working !== undefined) {
      const settled = working.then(() => {
        if (this.#working === settled) {
          this.#working = undefined;
        }
      });
      this.#working = settled;
    }
  }

  #decodeAndDeliver(message: Message): void | Promise<void> {
    const { decode } = this.#options;
    if (decode === undefined) {
      return this.deliver(message);
    }
    const opened = this.#opened;
    const failed = (cause: unknown): void => {
      if (opened === this.#opened) {
        this.moveCursor(message.id);
        const error = new FoghornError("decode-failed", "an event could not be decoded", { cause });
        this.fail(cause instanceof FoghornError ? cause : error);
      }
    };
    const decoded = (text: string): void => {
      if (opened === this.#opened) {
        this.deliver({ ...message, text });
      }
    };
    try {
      const text = decode(message.text);
      return typeof text === "string" ? decoded(text) : text.then(decoded, failed);
    } catch (cause) {
      failed(cause);
    }
  }

  #streamEvent(raw: RawEvent): void {
    const opened = this.#opened;
    // The id of an ousted stream's end is no cursor: by it the server would know not to let the client in again.
    const ousted =
      raw.type === "stream-end" &&
      (parseData(raw.data) as Partial<StreamEvents["stream-end"]> | null)?.reason === "ousted";
    this.deliver({
      type: raw.type,
      channel: "",
      id: ousted ? "" : raw.id,
      time: undefined,
      text: raw.data,
    });
    if (opened !== this.#opened) {
      return;
    }
    if (ousted) {
      this.close();
      this.fail(new FoghornError("ousted", "a newer stream of the user has taken the place of this one"));
    }
    if (raw.type === "connected") {
      this.#failures = 0;
      this.#live = this.clientId;
      this.setStatus("connected");
    } else if (raw.type === "stream-expiring") {
      this.#renew((parseData(raw.data) as Partial<StreamEvents["stream-expiring"]> | null)?.expires);
    }
  }

  /** Opens a stream with a new credential before this one ends with its own. */
  #renew(expires: string | undefined): void {
    const renews = this.#options.prepare !== undefined || this.#transport.renews === true;
    // Once for each end: whoever gives the same credential again won't be asked all the time.
    if (renews && expires !== this.#renewedFor) {
      this.#renewedFor = expires;
      const left = Math.max(0, Date.parse(expires ?? "") - Date.now() || 0);
      this.#openIn(Math.random() * Math.min(RENEW_MS, left / 2));
    }
  }

  #lost(loss: Loss): void {
    const { prepare, maxRetries = Number.POSITIVE_INFINITY } = this.#options;
    const isFinal = loss.final && !(loss.error.status === 401 && prepare !== undefined);
    const isExhausted = this.#failures >= maxRetries;
    if (isFinal || isExhausted) {
      this.close();
      this.fail(loss.error);
      if (!isFinal) {
        this.fail(new FoghornError("retries-exhausted", `${maxRetries} attempts in a row failed`));
      }
      return;
    }
    this.#live = undefined;
    if (!loss.reconnects || prepare !== undefined || this.#isChanged) {
      this.#drop();
      this.#waiting = true;
      // Where EventSource would have waited, so do we.
      const retry = this.#retry ?? (loss.reconnects ? assumedRetry() : 0);
      this.#openIn(Math.max(retry, backoff(this.#failures)));
    }
    this.#failures += 1;
    this.setStatus("connecting");
    this.fail(loss.error);
  }

  #silence(): void {
    const error = new FoghornError("heartbeat-missed", "nothing was heard for too long");
    this.#lost({ error, reconnects: false, final: false });
  }

  /** The network is back. Whatever connection there was may be dead without a word of it. */
  readonly #online = (): void => {
    this.#openIn(backoff(0));
  };
}
