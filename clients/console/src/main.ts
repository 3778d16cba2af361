/** The console: asks who looks if the server needs to know, then shows its pages over one stream of the dashboard. */
import type { Status } from "@foghorn/client";
import { Dashboard } from "./dashboard.js";
import { h, show } from "./dom.js";
import { time } from "./format.js";
import { api, message, Refused, session } from "./session.js";
import { themes } from "./theme.js";
import { address, type Parameters, type View } from "./view.js";
import { channels } from "./views/channels.js";
import { connections } from "./views/connections.js";
import { instances } from "./views/instances.js";
import { login } from "./views/login.js";
import { overview } from "./views/overview.js";
import { publish } from "./views/publish.js";
import { tail } from "./views/tail.js";
import { trace } from "./views/trace.js";

const PAGES: [page: string, title: string, open: (dashboard: Dashboard, parameters: Parameters) => View][] = [
  ["overview", "Overview", overview],
  ["instances", "Instances", instances],
  ["channels", "Channels", channels],
  ["tail", "Live tail", (_, parameters) => tail(parameters)],
  ["connections", "Connections", (_, parameters) => connections(parameters)],
  ["trace", "Why not?", (_, parameters) => trace(parameters)],
  ["publish", "Publish", (_, parameters) => publish(parameters)],
];

const STATUSES: Record<Status, string> = {
  connected: "Live",
  connecting: "Connecting…",
  disconnected: "Not connected",
};

const root = document.getElementById("console") as HTMLElement;
let leave: (() => void) | undefined;

session.onRefused(() => {
  // Who isn't in yet is told why when they try.
  if (leave !== undefined) {
    ask("The token isn't taken any more.");
  }
});
void enter();

/** Finds out whether the server lets us in as we are. */
async function enter(): Promise<void> {
  try {
    await api("/api/admin/channels?limit=1");
    run();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      ask(session.hasToken ? error.message : "");
    } else if (error instanceof Refused && error.status === 403) {
      ask(error.message);
    } else {
      show(root, h("p", { class: "wrong card", role: "alert" }, message(error)));
      setTimeout(enter, 3_000 * (0.5 + Math.random()));
    }
  }
}

function ask(why: string): void {
  leave?.();
  leave = undefined;
  session.use("");
  show(
    root,
    login(why, (token) => {
      session.use(token);
      void enter();
    }),
  );
}

function run(): void {
  const state = h("span", { class: "live", role: "status" }, STATUSES.connecting);
  const clock = h("time", { class: "clock", "aria-label": "time of the cluster" });
  const alarm = h("a", { class: "alarm", href: address("overview"), hidden: true });
  const links = PAGES.map(([page, title]) => h("a", { href: address(page) }, title));
  const theme = h("button", { type: "button", class: "icon" });
  const out = h("button", { type: "button", class: "small" }, "Leave");
  const heading = h("h1", { tabindex: -1 });
  const main = h("main", { id: "main" });
  let view: View | undefined;

  const dashboard = new Dashboard({
    onMetrics: (metrics) => {
      clock.textContent = time(metrics.time);
      alarm.hidden = metrics.alerts.length === 0;
      alarm.textContent = metrics.alerts.length === 1 ? "1 alert" : `${metrics.alerts.length} alerts`;
      view?.update?.();
    },
    onStatus: (status) => {
      state.textContent = STATUSES[status];
      state.dataset.status = status;
    },
    onError: (error) => {
      if (error.status === 401 || error.status === 403) {
        ask(error.problem?.detail ?? error.message);
      }
    },
  });
  const open = (moved: boolean): void => {
    const { page, parameters } = here();
    view?.close?.();
    const [, , make] = PAGES.find(([name]) => name === page) ?? (PAGES[0] as (typeof PAGES)[number]);
    view = make(dashboard, parameters);
    PAGES.forEach(([name], at) => {
      if (name === page) {
        links[at]?.setAttribute("aria-current", "page");
      } else {
        links[at]?.removeAttribute("aria-current");
      }
    });
    heading.textContent = view.title;
    document.title = `${view.title} · Foghorn`;
    show(main, heading, view.element);
    view.update?.();
    if (moved) {
      heading.focus();
    }
  };
  const moved = (): void => open(true);
  window.addEventListener("hashchange", moved);
  out.addEventListener("click", () => ask(""));
  out.hidden = !session.hasToken;
  themes(theme);
  show(
    root,
    h("a", { class: "skip", href: "#main", onclick: skip }, "Skip to the page"),
    h(
      "header",
      {},
      h("a", { class: "brand", href: address("overview") }, "Foghorn"),
      h("nav", { "aria-label": "Pages" }, links),
      h("div", { class: "side" }, alarm, state, clock, theme, out),
    ),
    main,
  );
  leave = () => {
    window.removeEventListener("hashchange", moved);
    view?.close?.();
    dashboard.close();
  };
  open(false);
}

/** The address says pages, so the way to what comes after the links is no address. */
function skip(event: Event): void {
  event.preventDefault();
  document.querySelector<HTMLElement>("main h1")?.focus();
}

function here(): { page: string; parameters: Parameters } {
  const [page = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const known = PAGES.some(([name]) => name === page);
  return { page: known ? page : "overview", parameters: new URLSearchParams(query) };
}
