import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { expect, it } from "vitest";
import {
  FoghornProvider,
  useEventMap,
  useEvents,
  useFoghorn,
  useNotifications,
} from "../../src/react/index.js";

function Component() {
  const { status } = useFoghorn();
  const { data, readyState, events } = useEvents("orders", "paid");
  const map = useEventMap(["a", "b"]);
  const { notifications, unreadCount, isLoading } = useNotifications();
  const shown = [status, String(data), readyState, events.length, map.size];
  return createElement("p", null, [...shown, notifications.length, unreadCount, isLoading].join(" "));
}

it("on a server nothing is connected, and components render as connecting", () => {
  // Node has no EventSource: connecting would throw, and so would the URL that is relative to no page.
  expect(typeof EventSource).toBe("undefined");
  const html = renderToString(createElement(FoghornProvider, {}, createElement(Component)));
  expect(html).toBe("<p>connecting null 0 0 0 0 0 true</p>");
});

it("a hook outside of a provider says what is missing", () => {
  expect(() => renderToString(createElement(Component))).toThrow(/FoghornProvider/);
});
