import { h, show, table } from "../dom.js";
import { bytes, count, rate } from "../format.js";
import { api, message } from "../session.js";
import { address, type View } from "../view.js";

interface Busiest {
  seconds: number;
  channels: { channel: string; events: number; bytes: number; listeners: number }[];
  complete: boolean;
}

const EVERY_MS = 5_000;

/** The channels with the most events lately. */
export function channels(): View {
  const { element, body } = table("Busiest channels", [
    ["Channel"],
    ["Events / s", "number"],
    ["Bytes / s", "number"],
    ["Listeners", "number"],
    ["", "wide"],
  ]);
  const note = h("p", { class: "hint", role: "status" });
  const load = async (): Promise<void> => {
    try {
      const { seconds, channels, complete } = await api<Busiest>("/api/admin/channels?seconds=10&limit=25");
      const most = Math.max(1, ...channels.map(({ events }) => events));
      show(
        body,
        channels.map((one) =>
          h(
            "tr",
            {},
            h(
              "th",
              { scope: "row", class: "mono" },
              h("a", { href: address("tail", { channel: one.channel }) }, one.channel),
            ),
            h("td", { class: "number" }, rate(one.events / seconds)),
            h("td", { class: "number" }, bytes(one.bytes / seconds)),
            h("td", { class: "number" }, count(one.listeners)),
            h(
              "td",
              { class: "wide" },
              h("meter", { min: 0, max: most, value: one.events, "aria-label": "share of the busiest" }),
            ),
          ),
        ),
      );
      const nothing =
        channels.length === 0
          ? "No events in the last 10 seconds."
          : "Of the last 10 seconds; looked at every 5.";
      note.textContent = complete ? nothing : `${nothing} Not everything could be looked at.`;
    } catch (error) {
      note.textContent = message(error);
    }
  };
  void load();
  const timer = setInterval(load, EVERY_MS);
  return {
    title: "Busiest channels",
    element: h("section", { class: "card" }, note, element),
    close: () => clearInterval(timer),
  };
}
