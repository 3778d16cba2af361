// The page of the tests of notifications.
import { createElement, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { FoghornProvider, useNotifications } from "../../../src/react/index.js";

function Bell({ origin, token }: { origin: string; token: string | undefined }) {
  const { notifications, unreadCount, isLoading, error, markAsRead, markAllAsRead } = useNotifications({
    url: `${origin}/api/notifications`,
    ...(token === undefined ? { user: "ann" } : { withCredentials: true }),
  });
  window.mark = markAsRead;
  window.markAll = markAllAsRead;
  const list = notifications.map((one) => `${one.title}${one.read ? "" : "*"}`).join(" ");
  return createElement(
    "output",
    { id: "bell" },
    JSON.stringify({ list, unreadCount, isLoading, error: error?.code ?? null }),
  );
}

declare global {
  interface Window {
    mark(id: string): Promise<void>;
    markAll(): Promise<void>;
    /** With a token the server knows whose they are, by the cookie that it is in. */
    renderBell(origin: string, token?: string): void;
  }
}

window.renderBell = (origin, token) => {
  const root = document.getElementById("root");
  if (root === null) {
    throw new Error("the page has no root");
  }
  const options = { url: `${origin}/api/events`, withCredentials: token !== undefined };
  const bell = createElement(Bell, { origin, token });
  createRoot(root).render(createElement(StrictMode, null, createElement(FoghornProvider, { options }, bell)));
};
