import { Chart, type Series } from "../chart.js";
import type { Dashboard, Happened, Metrics } from "../dashboard.js";
import { h, show } from "../dom.js";
import { bytes, cores, count, type Known, NOTHING, percent, rate, seconds, time } from "../format.js";
import type { View } from "../view.js";

/** Of how many processes the charts of each show lines; more would be no lines but a thicket. */
const LINES_MAX = 6;

/** The whole cluster at a glance. */
export function overview(dashboard: Dashboard): View {
  const tiles = {
    connections: tile("Connections"),
    events: tile("Events / s"),
    deliveries: tile("Deliveries / s"),
    latency: tile("Latency p99"),
    errors: tile("Error rate"),
    lag: tile("Lag"),
  };
  const charts = {
    connections: new Chart("Connections", count, 9),
    events: new Chart("Events published / s", rate, 3),
    deliveries: new Chart("Deliveries / s", rate, 3),
    latency: new Chart("Latency, journal to socket", seconds, 0.003),
    errors: new Chart("Publishes refused by us", percent, 0.015),
    gaps: new Chart("Gaps and resets in the last minute", count, 3),
    cpu: new Chart("CPU, share of a core", cores, 0.3),
    memory: new Chart("Memory", bytes, 3 * 1024 * 1024, 1024),
  };
  const alerts = h("section", { class: "card alerts", "aria-labelledby": "alerts-title" });
  const element = h(
    "div",
    {},
    h(
      "div",
      { class: "tiles" },
      Object.values(tiles).map((one) => one.element),
    ),
    alerts,
    h(
      "div",
      { class: "charts" },
      Object.values(charts).map((chart) => chart.element),
    ),
  );

  const draw = (): void => {
    const now = dashboard.latest;
    const totals = now?.cluster;
    tiles.connections.show(count(totals?.connections), of(totals?.connectionsMax));
    tiles.events.show(rate(totals?.eventsPerSecond));
    tiles.deliveries.show(rate(totals?.deliveriesPerSecond));
    tiles.latency.show(
      seconds(totals?.latency?.p99),
      totals?.latency ? `p50 ${seconds(totals.latency.p50)}` : "nothing delivered",
    );
    tiles.errors.show(percent(totals?.errorRate), totals?.errorRate === null ? "nothing published" : "");
    tiles.lag.show(
      count(totals?.lagEntries),
      totals === undefined ? "" : `entries, ${seconds(totals.lagSeconds)}`,
    );
    show(alerts, alertList(now, dashboard.happened));
    const one = (name: string, value: (metrics: Metrics) => Known): Series => ({
      name,
      values: dashboard.series(value),
    });
    charts.connections.draw([
      one("open", ({ cluster }) => cluster.connections),
      one("slow", ({ cluster }) => cluster.slowConnections),
    ]);
    charts.events.draw([one("published", ({ cluster }) => cluster.eventsPerSecond)]);
    charts.deliveries.draw([one("delivered", ({ cluster }) => cluster.deliveriesPerSecond)]);
    charts.latency.draw([
      one("p50", ({ cluster }) => cluster.latency?.p50),
      one("p95", ({ cluster }) => cluster.latency?.p95),
      one("p99", ({ cluster }) => cluster.latency?.p99),
    ]);
    charts.errors.draw([one("refused", ({ cluster }) => cluster.errorRate)]);
    charts.gaps.draw([
      one("gaps", ({ cluster }) => cluster.gaps),
      one("resets", ({ cluster }) => cluster.resets),
    ]);
    const shown = (now?.instances ?? []).slice(0, LINES_MAX);
    const each = (value: (instance: Metrics["instances"][number]) => Known): Series[] =>
      shown.map(({ service, instance, host }) => ({
        name: shown.length === 1 ? service : `${service} ${host}`,
        values: dashboard.series(({ instances }) => {
          const found = instances.find((other) => other.instance === instance);
          return found === undefined ? null : value(found);
        }),
      }));
    charts.cpu.draw(each(({ cpu }) => cpu));
    charts.memory.draw(each(({ memoryBytes }) => memoryBytes));
  };
  return { title: "Overview", element, update: draw };
}

function tile(title: string): { element: HTMLElement; show: (value: string, note?: string) => void } {
  const [value, note] = [h("dd", { class: "value" }, NOTHING), h("dd", { class: "note" })];
  return {
    element: h("dl", { class: "tile card" }, h("dt", {}, title), value, note),
    show(text, more = ""): void {
      value.textContent = text;
      note.textContent = more;
    },
  };
}

function of(most: Known): string {
  return typeof most === "number" && most > 0 ? `of ${count(most)}` : "";
}

function alertList(now: Metrics | undefined, happened: readonly Happened[]): HTMLElement[] {
  const firing = now?.alerts ?? [];
  const heading = h(
    "h2",
    { id: "alerts-title" },
    firing.length === 0 ? "No alerts" : `Alerts: ${firing.length}`,
  );
  if (firing.length === 0 && happened.length === 0) {
    return [heading];
  }
  return [
    heading,
    h(
      "ul",
      {},
      firing.map(({ name, metric, value, above, below }) => {
        const bound = above === undefined ? `below ${below}` : `above ${above}`;
        return h(
          "li",
          { class: "firing" },
          h("b", {}, name),
          ` ${metric} is ${Number(value.toPrecision(3))}, ${bound}`,
        );
      }),
      happened
        .filter(({ state }) => state === "resolved")
        .slice(0, 3)
        .map((alert) =>
          h("li", { class: "resolved" }, `${time(alert.time.toISOString())} ${alert.name} is over`),
        ),
    ),
  ];
}
