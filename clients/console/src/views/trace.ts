import { field, h, show, table } from "../dom.js";
import { moment } from "../format.js";
import { api, message } from "../session.js";
import { address, type Parameters, type View } from "../view.js";
import { type Connection, hears } from "./connections.js";

interface Trace {
  event: {
    shard: number;
    epoch: number;
    seq: number;
    time: string;
    event: string | null;
    id: string | null;
  } | null;
  steps: { step: string; answer: "yes" | "no" | "unknown"; why: string }[];
  connections: Connection[];
  complete: boolean;
}

const MARKS = { yes: "✓", no: "✕", unknown: "?" } as const;

const VERDICTS: Record<string, string> = {
  delivered: "Written to its socket",
  behind: "To be written; its socket is behind",
  "not-subscribed": "Doesn't hear the channel",
  filtered: "Filtered: asked for other types",
  "connected-after": "Opened after the event",
  reset: "Was reset: it is in another epoch",
};

/** Why a user didn't get an event. */
export function trace(parameters: Parameters): View {
  const given = (name: string): string => parameters.get(name) ?? "";
  const channel = field("Channel", { id: "trace-channel", value: given("channel"), required: true });
  const id = field(
    "Event",
    { id: "trace-id", value: given("id"), required: true },
    "The id that it was published with, its cursor, or its seq.",
  );
  const user = field(
    "User",
    { id: "trace-user", value: given("user"), required: true },
    "The subject of their tokens.",
  );
  const status = h("p", { class: "hint", role: "status" });
  const answer = h("div", {});
  const find = async (): Promise<void> => {
    status.textContent = "Looking…";
    show(answer);
    try {
      const asked = new URLSearchParams({
        channel: channel.input.value,
        id: id.input.value,
        user: user.input.value,
      });
      const found = await api<Trace>(`/api/admin/trace?${asked}`);
      show(answer, steps(found), found.event !== null && ways(found));
      status.textContent = found.complete ? "" : "Not all connections could be looked at.";
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
        const asked = { channel: channel.input.value, id: id.input.value, user: user.input.value };
        history.replaceState(null, "", address("trace", asked));
        void find();
      },
    },
    channel.row,
    id.row,
    user.row,
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Find out")),
  );
  if ([channel, id, user].every(({ input }) => input.value !== "")) {
    void find();
  }
  return { title: "Why didn't they get it?", element: h("section", { class: "card" }, form, status, answer) };
}

function steps({ event, steps: all }: Trace): HTMLElement[] {
  const list = all.map(({ step, answer, why }) =>
    h(
      "li",
      { class: answer },
      h("span", { class: "mark", "aria-hidden": "true" }, MARKS[answer]),
      h("b", {}, step),
      h("span", { class: "unseen" }, `: ${answer}.`),
      h("span", { class: "why" }, why),
    ),
  );
  const known = event && [
    `Event ${event.id ?? event.seq}`,
    event.event === null ? "" : ` of type ${event.event}`,
    `, published ${moment(event.time)}`,
  ];
  return [...(known ? [h("h2", {}, known)] : []), h("ol", { class: "steps" }, list)];
}

function ways({ connections: all }: Trace): HTMLElement {
  const { element, body } = table("Connections of the user, and what became of the event there", [
    ["Connection"],
    ["Gateway"],
    ["Opened"],
    ["Hears"],
    ["This event"],
  ]);
  show(
    body,
    all.map((one) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "mono" }, one.connection),
        h("td", { class: "mono" }, one.instance),
        h("td", {}, moment(one.openedAt)),
        h("td", { class: "mono" }, hears(one)),
        h("td", { class: `verdict ${one.verdict ?? ""}` }, VERDICTS[one.verdict ?? ""] ?? one.verdict),
      ),
    ),
  );
  return element;
}
