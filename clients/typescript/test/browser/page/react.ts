// The page of the tests of the React hooks.
import { createElement, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import {
  FoghornProvider,
  useEventHandler,
  useEvents,
  useFoghorn,
  useSSE,
  useSSEMultiple,
} from "../../../src/react/index.js";
import { SharedFoghornClient } from "../../../src/tabs/index.js";

const handled: unknown[] = [];

function Feed({ channel, mount }: { channel: string; mount: number }) {
  const { data, events, readyState, close } = useEvents<number>(channel, "tick", { limit: 3 });
  const map = useSSEMultiple<number>(["tick", "tock"]);
  const { data: other } = useSSE<string>(null, "tock");
  useEventHandler<number>(channel, "tick", (n) => handled.push(n));
  const text = {
    mount,
    data,
    last: events.map((event) => `${event.channel} ${event.data}`),
    readyState,
    other,
    map: Object.fromEntries(map),
  };
  const output = createElement("output", { id: "feed" }, JSON.stringify(text));
  return createElement(
    "div",
    null,
    output,
    createElement("button", { id: "close", type: "button", onClick: close }),
  );
}

function Status() {
  const { status, isConnected } = useFoghorn();
  return createElement("output", { id: "status" }, `${status} ${isConnected}`);
}

function App({ url, client }: { url: string; client: SharedFoghornClient | undefined }) {
  const [isShown, setShown] = useState(true);
  const [channel, setChannel] = useState("one");
  const [key, setKey] = useState(0);
  window.controls = {
    hide: () => setShown(false),
    listenTo: setChannel,
    remount: () => setKey((key) => key + 1),
  };
  if (!isShown) {
    return null;
  }
  return createElement(
    FoghornProvider,
    client === undefined
      ? { options: { url, onStatus: (status) => window.statuses.push(status) } }
      : { client },
    createElement(Status),
    createElement(Feed, { key: `a${key}`, channel, mount: key }),
    createElement(Silent, { key: `b${key}` }),
  );
}

/** Another component that shares the connection. */
function Silent() {
  useEvents("silent", "message");
  return null;
}

declare global {
  interface Window {
    handled: unknown[];
    /** What the provider's client said of itself. */
    statuses: string[];
    controls: { hide(): void; listenTo(channel: string): void; remount(): void };
    /** With a client of its own, or with one that it shares with other tabs. */
    renderApp(url: string, isShared?: boolean): void;
  }
}

window.handled = handled;
window.statuses = [];
window.renderApp = (url, isShared = false) => {
  const client = isShared ? new SharedFoghornClient({ url }) : undefined;
  if (client !== undefined) {
    window.shared = client;
  }
  const root = document.getElementById("root");
  if (root !== null) {
    createRoot(root).render(createElement(StrictMode, null, createElement(App, { url, client })));
  }
};
