import { field, h } from "../dom.js";

/** Asks for a token of the role admin. `why` says why the last one isn't taken. */
export function login(why: string, enter: (token: string) => void): HTMLElement {
  const token = field(
    "Token",
    { id: "login-token", type: "password", required: true, autocomplete: "off" },
    "A token whose role is admin. It is kept for this tab, until it is closed.",
  );
  const form = h(
    "form",
    {
      class: "stack card login",
      onsubmit: (event: SubmitEvent) => {
        event.preventDefault();
        enter(token.input.value);
      },
    },
    h("h1", {}, "Foghorn console"),
    token.row,
    why !== "" && h("p", { class: "wrong", role: "alert" }, why),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Enter")),
  );
  queueMicrotask(() => token.input.focus());
  return form;
}
