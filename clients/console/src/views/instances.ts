import type { Dashboard, Instance } from "../dashboard.js";
import { h, show, table } from "../dom.js";
import { bytes, cores, count, duration, rate } from "../format.js";
import type { View } from "../view.js";

/** Every process of the cluster, and how it is. */
export function instances(dashboard: Dashboard): View {
  const { element, body } = table("Processes of the cluster", [
    ["State"],
    ["Service"],
    ["Host"],
    ["Name"],
    ["Version"],
    ["Up for", "number"],
    ["CPU", "number"],
    ["Memory", "number"],
    ["Connections", "number"],
    ["Events / s", "number"],
    ["Deliveries / s", "number"],
    ["Lag", "number"],
  ]);
  const note = h("p", { class: "hint" });
  const update = (): void => {
    const now = dashboard.latest;
    show(body, (now?.instances ?? []).map(row));
    const leftOut = now?.leftOut ?? 0;
    note.textContent = leftOut === 0 ? "" : "There are more processes than can be shown.";
  };
  return { title: "Instances", element: h("section", { class: "card" }, element, note), update };
}

function row(one: Instance): HTMLElement {
  const number = (text: string): HTMLElement => h("td", { class: "number" }, text);
  const serves = one.service === "gateway" || one.service === "standalone";
  const takes = one.service === "fanout" || one.service === "standalone";
  return h(
    "tr",
    { class: `is-${one.state}` },
    h(
      "td",
      {},
      h("span", { class: `state ${one.state}` }, one.state),
      one.waitingFor.length > 0 && h("p", { class: "hint" }, one.waitingFor.join("; ")),
    ),
    h("th", { scope: "row" }, one.service),
    h("td", {}, one.host),
    h("td", { class: "mono" }, one.instance),
    h("td", {}, one.version),
    number(duration(one.uptimeSeconds)),
    number(cores(one.cpu)),
    number(bytes(one.memoryBytes)),
    number(serves ? count(one.connections) : ""),
    number(takes ? rate(one.eventsPerSecond) : ""),
    number(serves ? rate(one.deliveriesPerSecond) : ""),
    number(count(one.lagEntries)),
  );
}
