import { field, h, show, table } from "../dom.js";
import { moment } from "../format.js";
import { api, message } from "../session.js";
import { address, type Parameters, type View } from "../view.js";

export interface Connection {
  connection: string;
  instance: string;
  user: string | null;
  channels: string[];
  moreChannels: number;
  events: string[];
  openedAt: string;
  level: boolean;
  positions: string[];
  verdict?: string;
}

interface Connections {
  user: string;
  connections: Connection[];
  complete: boolean;
}

/** The streams of a user, which can be closed. */
export function connections(parameters: Parameters): View {
  const user = field(
    "User",
    { id: "connections-user", value: parameters.get("user") ?? "", required: true },
    "The subject of their tokens. To close a connection is to refuse its token, too.",
  );
  const status = h("p", { class: "hint", role: "status" });
  const { element, body } = table("Connections of the user", [
    ["Connection"],
    ["Gateway"],
    ["Opened"],
    ["Hears"],
    ["State"],
    [""],
  ]);
  const find = async (): Promise<void> => {
    status.textContent = "Looking…";
    try {
      const asked = new URLSearchParams({ user: user.input.value });
      const found = await api<Connections>(`/api/admin/connections?${asked}`);
      show(
        body,
        found.connections.map((one) =>
          row(one, (text) => {
            status.textContent = text;
          }),
        ),
      );
      const number = found.connections.length;
      const said = number === 1 ? "1 connection" : `${number} connections`;
      status.textContent = found.complete ? `${said}.` : `${said}; not all could be looked at.`;
    } catch (error) {
      status.textContent = message(error);
    }
  };
  const form = h(
    "form",
    {
      class: "row",
      onsubmit: (event: SubmitEvent) => {
        event.preventDefault();
        history.replaceState(null, "", address("connections", { user: user.input.value }));
        void find();
      },
    },
    user.row,
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Find")),
  );
  if (user.input.value !== "") {
    void find();
  }
  return { title: "Connections", element: h("section", { class: "card" }, form, status, element) };
}

function row(one: Connection, say: (text: string) => void): HTMLElement {
  const close = h(
    "button",
    { type: "button", class: "danger small", "aria-label": `Close connection ${one.connection}` },
    "Close",
  );
  let sure = false;
  const element = h(
    "tr",
    {},
    h("th", { scope: "row", class: "mono" }, one.connection),
    h("td", { class: "mono" }, one.instance),
    h("td", {}, moment(one.openedAt)),
    h("td", { class: "mono" }, hears(one)),
    h("td", {}, one.level ? "level" : "behind"),
    h("td", {}, close),
  );
  close.addEventListener("click", async () => {
    // Once more, as there is no way back.
    if (!sure) {
      sure = true;
      close.textContent = "Really close?";
      close.addEventListener("blur", () => {
        sure = false;
        close.textContent = "Close";
      });
      return;
    }
    close.disabled = true;
    try {
      await api("/api/admin/revoke", { connection: one.connection });
      element.classList.add("closed");
      say(`${one.connection} was closed, and its token is refused.`);
    } catch (error) {
      close.disabled = false;
      say(message(error));
    }
  });
  return element;
}

/** What a connection hears, in a line. */
export function hears({ channels, moreChannels, events }: Connection): string {
  const more = moreChannels > 0 ? ` and ${moreChannels} more` : "";
  const types = events.length > 0 ? ` (${events.join(", ")})` : "";
  const what = channels.length === 0 ? "the dashboard" : channels.join(", ");
  return `${what}${more}${types}`;
}
