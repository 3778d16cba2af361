// The page at `/` of `foghorn standalone`: listens with the browser's own EventSource, and publishes.
"use strict";

const EVENTS_SHOWN = 500;
const NOTICES_SHOWN = 200;

const element = (id) => document.getElementById(id);
const channels = element("channels");
const types = element("types");
const statusLine = element("status");

/** The open EventSource, if any. */
let source = null;
/** The types that it has a listener for. */
let listenedTypes = new Set();
let received = 0;

const list = (text) => text.split(",").map((item) => item.trim()).filter((item) => item !== "");

/** The types that are to be shown. `message` is what EventSource calls an event without a type. */
const wantedTypes = () => new Set(["message", ...list(types.value)]);

function setStatus(state, text) {
  statusLine.dataset.state = state;
  statusLine.textContent = text;
}

function clock(time) {
  return Number.isNaN(time.getTime()) ? "" : time.toTimeString().slice(0, 8) + "." + String(time.getMilliseconds()).padStart(3, "0");
}

/** A list on the page that keeps its newest `most` items, and stays at its end when it is there. */
class Tail {
  #list;
  #most;
  #waiting = [];

  constructor(list, most) {
    this.#list = list;
    this.#most = most;
  }

  /** Items that come at once are put on the page at once: each time costs a layout. */
  append(item) {
    if (this.#waiting.length === 0) {
      setTimeout(() => this.#show(), 16);
    }
    this.#waiting.push(item);
    if (this.#waiting.length > this.#most) {
      this.#waiting.shift();
    }
  }

  clear() {
    this.#waiting.length = 0;
    this.#list.replaceChildren();
  }

  #show() {
    const list = this.#list;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(...this.#waiting);
    this.#waiting.length = 0;
    while (list.childElementCount > this.#most) {
      list.firstElementChild.remove();
    }
    if (atEnd) {
      list.scrollTop = list.scrollHeight;
    }
    showCount();
  }
}

const events = new Tail(element("events"), EVENTS_SHOWN);
const notices = new Tail(element("notices"), NOTICES_SHOWN);

function notice(kind, text) {
  const item = document.createElement("li");
  item.dataset.notice = kind;
  item.textContent = clock(new Date()) + "  " + text;
  notices.append(item);
}

function part(className, text) {
  const span = document.createElement(className === "data" ? "pre" : "span");
  span.className = className;
  span.textContent = text;
  return span;
}

function showEvent(event) {
  if (!(event instanceof MessageEvent)) {
    return; // EventSource's own `open` or `error`, when a type of that name is listed.
  }
  // With envelope=1, data is {"channel", "event", "time", "data"}.
  let envelope = parseData(event.data);
  if (typeof envelope?.channel !== "string") {
    envelope = { channel: "", time: "", data: event.data };
  }
  const item = document.createElement("li");
  item.className = "event";
  item.dataset.channel = envelope.channel;
  item.dataset.type = event.type;
  item.dataset.id = event.lastEventId;
  const about = part("about", "");
  about.append(
    part("time", clock(new Date(envelope.time))),
    part("channel", envelope.channel),
    part("type", event.type),
    part("id", event.lastEventId),
  );
  item.append(about, part("data", envelope.data));
  received += 1;
  events.append(item);
}

function showCount() {
  element("count").textContent = `${received} so far; the last ${EVENTS_SHOWN} are shown`;
}

/** Gives the open EventSource listeners for the wanted types, and no others. It need not reconnect. */
function listenToTypes() {
  if (source === null) {
    return;
  }
  const wanted = wantedTypes();
  for (const type of wanted) {
    // The stream's own events have their listeners already.
    if (!listenedTypes.has(type) && !Object.hasOwn(streamEvents, type)) {
      source.addEventListener(type, showEvent);
    }
  }
  for (const type of listenedTypes) {
    if (!wanted.has(type)) {
      source.removeEventListener(type, showEvent);
    }
  }
  listenedTypes = wanted;
}

/** What the stream says about itself. See docs/streams.md. */
const streamEvents = {
  connected(data) {
    setStatus("catching-up", "connected, catching up");
    notice("connected", data.recovered ? "connected: goes on where it was" : "connected: begins here");
  },
  "stream-live"(data) {
    setStatus("live", "live");
    notice("stream-live", `stream-live: caught up, ${data.replayed} replayed`);
  },
  "stream-reset"(data) {
    notice("stream-reset", `stream-reset: ${data.reason}. Some events are gone; the stream goes on with the earliest there is`);
  },
  "stream-stale"() {
    setStatus("stale", "stale: events may come late");
    notice("stream-stale", "stream-stale: events may come late; none will be lost");
  },
  "stream-end"(data) {
    notice("stream-end", `stream-end: ${data.reason}. The browser comes back by itself`);
  },
};

function parseData(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

function listen() {
  stop();
  const query = new URLSearchParams({ envelope: "1" });
  const names = list(channels.value).join(",");
  if (names !== "") {
    query.set("channels", names);
  }
  const url = `/api/events?${query}`;
  remember();
  setStatus("connecting", "connecting");
  notice("connecting", `connecting to ${names === "" ? "broadcast" : names}`);

  const opened = new EventSource(url);
  source = opened;
  listenedTypes = new Set();
  let opens = 0;
  for (const [type, told] of Object.entries(streamEvents)) {
    opened.addEventListener(type, (event) => told(parseData(event.data)));
  }
  listenToTypes();
  opened.onopen = (event) => {
    if (event instanceof MessageEvent) {
      return; // An event that somebody published with the type `open`.
    }
    opens += 1;
    notice("open", opens === 1 ? "stream opened" : "stream reopened");
  };
  opened.onerror = (event) => {
    if (event instanceof MessageEvent) {
      return; // An event that somebody published with the type `error`.
    }
    if (opened.readyState === EventSource.CLOSED) {
      source = null;
      element("stop").disabled = true;
      setStatus("failed", "refused");
      notice("failed", "the server refused the stream");
      explain(url);
      return;
    }
    setStatus("reconnecting", "reconnecting");
    notice("reconnecting", "the stream ended; the browser reconnects");
  };
  element("stop").disabled = false;
}

function stop() {
  if (source === null) {
    return;
  }
  source.close();
  source = null;
  element("stop").disabled = true;
  setStatus("closed", "not listening");
  notice("closed", "stopped listening");
}

/** EventSource doesn't tell why it was refused; asking again does. */
async function explain(url) {
  const asking = new AbortController();
  try {
    const response = await fetch(url, { signal: asking.signal });
    if (!response.ok) {
      notice("failed", problemText(await response.json(), response.status));
    }
  } catch {
    // Nothing more is known than that it was refused.
  } finally {
    asking.abort();
  }
}

function problemText(problem, status) {
  const text = [problem.title, problem.detail].filter(Boolean).join(": ");
  return text === "" ? `status ${status}` : text;
}

/** Keeps channels and types over a reload. */
function remember() {
  const kept = new URLSearchParams({ channels: channels.value, types: types.value });
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  if (kept.has("channels")) {
    channels.value = kept.get("channels");
    types.value = kept.get("types") ?? "";
    listen();
  }
}

async function publish() {
  const result = element("publish-result");
  const button = element("publish");
  const type = element("publish-type").value.trim();
  const event = { channel: element("publish-channel").value.trim(), data: element("publish-data").value };
  if (type !== "") {
    event.event = type;
    if (!wantedTypes().has(type) && !type.includes(",")) {
      types.value = [...list(types.value), type].join(", ");
      listenToTypes();
    }
  }
  button.disabled = true;
  result.textContent = "publishing…";
  result.dataset.outcome = "";
  try {
    const response = await fetch("/api/publish", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(event),
    });
    const text = await response.text();
    const answer = parseData(text);
    result.dataset.outcome = response.ok ? "ok" : "error";
    result.textContent = response.ok ? `stored: ${text}` : problemText(answer, response.status);
  } catch (error) {
    result.dataset.outcome = "error";
    result.textContent = `no answer: ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

element("listen-form").addEventListener("submit", (event) => {
  event.preventDefault();
  listen();
});
element("stop").addEventListener("click", stop);
element("clear").addEventListener("click", () => {
  events.clear();
  received = 0;
  showCount();
});
types.addEventListener("change", () => {
  listenToTypes();
  remember();
});
element("publish-form").addEventListener("submit", (event) => {
  event.preventDefault();
  publish();
});
element("publish-data").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    element("publish-form").requestSubmit();
  }
});
recall();
