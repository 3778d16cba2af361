import { FoghornClient, type FoghornEvent, type Transport } from "@foghorn/client";
import { fetchTransport } from "@foghorn/client/fetch";
import { field, h, show } from "../dom.js";
import { time } from "../format.js";
import { session } from "../session.js";
import { address, type Parameters, type View } from "../view.js";

/** Events that are shown; older ones go. */
const ROWS = 500;
/** Characters of an event that are shown before somebody asks for all. */
const SHORT = 300;

/** What happens on a channel, as it happens. */
export function tail(parameters: Parameters): View {
  const channel = field(
    "Channels and patterns",
    { id: "tail-channel", value: parameters.get("channel") ?? "", placeholder: "orders.>", required: true },
    "Separated by commas: orders.eu.42, orders.*, orders.> or > for everything.",
  );
  const filter = field("Only events with", { id: "tail-filter", placeholder: "any text" });
  const list = h("ol", { class: "events", "aria-label": "Events, the newest first", tabindex: 0 });
  const status = h("p", { class: "hint", role: "status" });
  const pause = h("button", { type: "button", disabled: true }, "Pause");
  let client: FoghornClient | undefined;
  let paused: HTMLElement[] | undefined;

  const add = (event: FoghornEvent): void => {
    const row = eventRow(event);
    row.hidden = !matches(row, filter.input.value);
    if (paused === undefined) {
      list.prepend(row);
      while (list.childElementCount > ROWS) {
        list.lastElementChild?.remove();
      }
    } else {
      paused.unshift(row);
      paused.length = Math.min(paused.length, ROWS);
      status.textContent = `Paused: ${paused.length} more`;
    }
  };
  const listen = (): void => {
    client?.close();
    show(list);
    const types = new Set<string>();
    const heard = (type: string): void => {
      if (!types.has(type)) {
        types.add(type);
        client?.on(type, (_, event) => add(event));
      }
    };
    client = new FoghornClient({
      channels: channel.input.value
        .split(",")
        .map((name) => name.trim())
        .filter((name) => name !== ""),
      last: 20,
      transport: everyType(fetchTransport({ headers: session.headers() }), heard),
      onStatus: (now) => {
        status.textContent =
          now === "connected" ? "Listening" : now === "connecting" ? "Connecting…" : "Stopped";
      },
      onError: (error) => {
        status.textContent = error.problem?.detail ?? error.problem?.title ?? error.message;
      },
    });
    client.on("stream-reset", ({ reason }) =>
      list.prepend(h("li", { class: "notice" }, `stream-reset: ${reason}`)),
    );
    client.connect();
    pause.disabled = false;
  };
  pause.addEventListener("click", () => {
    if (paused === undefined) {
      paused = [];
    } else {
      list.prepend(...paused);
      paused = undefined;
      status.textContent = "Listening";
    }
    pause.textContent = paused === undefined ? "Pause" : "Go on";
  });
  filter.input.addEventListener("input", () => {
    for (const row of list.children) {
      (row as HTMLElement).hidden = !matches(row, filter.input.value);
    }
  });
  const form = h(
    "form",
    {
      class: "row",
      onsubmit: (event: SubmitEvent) => {
        event.preventDefault();
        listen();
      },
    },
    channel.row,
    filter.row,
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Listen"), pause),
  );
  if (channel.input.value !== "") {
    listen();
  }
  return {
    title: "Live tail",
    element: h("section", { class: "card" }, form, status, list),
    close: () => client?.close(),
  };
}

/** Tells of every type that comes, before the event is given to handlers. */
function everyType(transport: Transport, heard: (type: string) => void): Transport {
  return {
    ...transport,
    open: (request, sink) =>
      transport.open(request, {
        event(event) {
          if (event.data.startsWith('{"channel":')) {
            heard(event.type);
          }
          sink.event(event);
        },
        cursor: (id) => sink.cursor(id),
        retry: (milliseconds) => sink.retry(milliseconds),
        failed: (error) => sink.failed(error),
        lost: (loss) => sink.lost(loss),
      }),
  };
}

function matches(row: Element, text: string): boolean {
  return text === "" || (row.textContent ?? "").toLowerCase().includes(text.toLowerCase());
}

function eventRow(event: FoghornEvent): HTMLElement {
  const long = event.text.length > SHORT;
  const data = h("pre", {}, long ? `${event.text.slice(0, SHORT)}…` : event.text);
  const all = h("button", { type: "button", class: "small" }, "All of it");
  all.addEventListener("click", () => {
    data.textContent = event.text;
    all.remove();
  });
  const user = event.channel.startsWith("user.") ? event.channel.slice("user.".length) : "";
  return h(
    "li",
    {},
    h("time", {}, time(event.time)),
    h("span", { class: "mono channel" }, event.channel),
    h("span", { class: "type" }, event.type),
    h("a", { href: address("trace", { channel: event.channel, id: event.id, user }) }, "Trace"),
    data,
    long && all,
  );
}
