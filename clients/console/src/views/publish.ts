import { field, h, show } from "../dom.js";
import { api, message } from "../session.js";
import { address, type Parameters, type View } from "../view.js";

interface Published {
  results?: { channel: string; id?: string; position?: unknown; duplicate?: boolean }[];
  id?: string;
  duplicate?: boolean;
}

/** Publishes an event, as any publisher would. */
export function publish(parameters: Parameters): View {
  const channel = field("Channel", {
    id: "publish-channel",
    value: parameters.get("channel") ?? "",
    required: true,
  });
  const type = field("Type", { id: "publish-type", placeholder: "message" }, "Optional.");
  const id = field("Id", { id: "publish-id" }, "Optional. The same id on a channel is stored once.");
  const data = h("textarea", {
    id: "publish-data",
    rows: 8,
    spellcheck: "false",
    "aria-describedby": "publish-data-hint",
  });
  const status = h("p", { class: "hint", role: "status" });
  const send = async (): Promise<void> => {
    status.textContent = "Publishing…";
    const name = channel.input.value;
    const event = {
      channel: name,
      data: parsed(data.value),
      ...(type.input.value === "" ? {} : { event: type.input.value }),
      ...(id.input.value === "" ? {} : { id: id.input.value }),
    };
    try {
      const answer = await api<Published>("/api/publish", event);
      const one = answer.results?.[0] ?? answer;
      const known = one.duplicate === true ? "Known already" : "Published";
      const tail = h("a", { href: address("tail", { channel: name }) }, "see it in the live tail");
      show(status, `${known} as ${one.id ?? "an event"}: `, tail, ".");
    } catch (error) {
      status.textContent = message(error);
    }
  };
  const form = h(
    "form",
    {
      class: "stack",
      onsubmit: (event: SubmitEvent) => {
        event.preventDefault();
        void send();
      },
    },
    h("div", { class: "row" }, channel.row, type.row, id.row),
    h(
      "div",
      { class: "field" },
      h("label", { for: "publish-data" }, "Data"),
      data,
      h("p", { class: "hint", id: "publish-data-hint" }, "Sent as JSON if it is JSON, else as text."),
    ),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Publish")),
    status,
  );
  return { title: "Publish", element: h("section", { class: "card" }, form) };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
