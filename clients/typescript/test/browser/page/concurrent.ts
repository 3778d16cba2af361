// The page of the tests of concurrent rendering: renders that are interrupted, suspended and given up.
import { createElement, memo, Suspense, startTransition, use, useState } from "react";
import { createRoot } from "react-dom/client";
import { FoghornClient } from "../../../src/index.js";
import { FoghornProvider, useEventHandler, useEventMap, useEvents } from "../../../src/react/index.js";

/** Keeps what it was ever asked to listen to. */
class RecordingClient extends FoghornClient {
  readonly subscribed: string[] = [];

  override subscribe(...channels: string[]) {
    this.subscribed.push(...channels);
    return super.subscribe(...channels);
  }
}

const gates = new Map<string, { promise: Promise<void>; open: () => void }>();

/** What a channel's component waits for before it can be rendered to its end. */
function gate(channel: string): { promise: Promise<void>; open: () => void } {
  let found = gates.get(channel);
  if (found === undefined) {
    let open = (): void => {};
    const promise = new Promise<void>((resolve) => {
      open = resolve;
    });
    found = { promise, open };
    gates.set(channel, found);
  }
  return found;
}

function Feed({ channel }: { channel: string }) {
  const { data } = useEvents<number>(channel, "tick");
  const map = useEventMap<number>(["tick"], { channel });
  useEventHandler<number>(channel, "tick", (n) => window.handled.push(`${channel} ${n}`));
  window.rendered.push(channel);
  if (channel.startsWith("gated")) {
    use(gate(channel).promise);
  }
  return createElement("output", { id: "feed" }, `${channel} ${data} ${map.get("tick") ?? null}`);
}

/** Takes its time, so that React gives way to what is urgent before the next one. */
const Slow = memo(function Slow({ n, channel }: { n: number; channel: string }) {
  const until = performance.now() + 6;
  while (performance.now() < until) {
    // On purpose.
  }
  if (n === 3 && channel === "slow" && window.interruptions > 0) {
    window.interruptions -= 1;
    setTimeout(() => window.moves.urge());
  }
  return null;
});

function App({ client }: { client: FoghornClient }) {
  const [channel, setChannel] = useState("one");
  const [urgent, setUrgent] = useState(0);
  const [isShown, setShown] = useState(true);
  window.moves = {
    move: (channel) => startTransition(() => setChannel(channel)),
    jump: setChannel,
    urge: () => setUrgent((n) => n + 1),
    open: (channel) => gate(channel).open(),
    hide: () => setShown(false),
  };
  const slow = Array.from({ length: 12 }, (_, n) => createElement(Slow, { key: n, n, channel }));
  const feed = createElement(Feed, { channel });
  const waiting = createElement("output", { id: "waiting" }, "waiting");
  return createElement(
    FoghornProvider,
    { client },
    createElement("output", { id: "urgent" }, String(urgent)),
    isShown ? createElement(Suspense, { fallback: waiting }, feed, slow) : null,
  );
}

declare global {
  interface Window {
    /** The channel of each render of the feed, also of those that came to nothing. */
    rendered: string[];
    /** How often rendering the channel `slow` is to be interrupted yet. */
    interruptions: number;
    recording: RecordingClient;
    moves: {
      /** To another channel, in a transition. */
      move(channel: string): void;
      /** To another channel, at once. */
      jump(channel: string): void;
      urge(): void;
      open(channel: string): void;
      hide(): void;
    };
    renderApp(url: string): void;
  }
}

window.handled = [];
window.rendered = [];
window.interruptions = 0;
window.renderApp = (url) => {
  window.recording = new RecordingClient({ url });
  const root = document.getElementById("root");
  if (root !== null) {
    createRoot(root).render(createElement(App, { client: window.recording }));
  }
};
