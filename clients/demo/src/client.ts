import type { Notification } from "@foghorn/client/react";
import { SharedFoghornClient } from "@foghorn/client/tabs";
import { ask } from "./server";

/** A line of the log. */
export interface Line {
  id: string;
  level: "info" | "warning" | "error";
  service: string;
  text: string;
}

/** How far a job is. */
export interface Progress {
  percent: number;
  phase: string;
}

/** The events of this application. */
export interface Events {
  line: Line;
  progress: Progress;
  notification: Notification;
}

/** The one client of the page. All tabs share its connection. */
export const client = new SharedFoghornClient<Events>({
  name: "foghorn demo",
  // Before each connection, so that a server that was started anew, with other keys, knows this user again.
  prepare: async () => ask("/demo/session"),
});
