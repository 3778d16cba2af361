import { useEventHandler, useNotifications } from "@foghorn/client/react";
import { type ReactElement, useState } from "react";
import { Bell } from "./parts/bell";
import { Connection, StatusDot } from "./parts/connection";
import { Feed } from "./parts/feed";
import { Job } from "./parts/job";
import { Log } from "./parts/log";

/** Notifications that are shown; the bell counts the others too. */
const NOTIFICATIONS = 6;

export function App(): ReactElement {
  const notifications = useNotifications({ limit: NOTIFICATIONS });
  const [resets, setResets] = useState(0);
  // Some of what was shown is gone: the parts that keep what they heard begin anew, and load their state.
  useEventHandler(null, "stream-reset", () => setResets((count) => count + 1));
  return (
    <>
      <a className="skip" href="#notifications">
        Skip to the notifications
      </a>
      <header>
        <span className="brand">Foghorn demo</span>
        <StatusDot />
        <Bell unread={notifications.unreadCount} />
      </header>
      <main>
        <h1>One connection, everything live</h1>
        <p className="lead">
          An application publishes; this page listens with <code>@foghorn/client</code>. Each part says with
          which call.
        </p>
        <div className="parts">
          <Feed {...notifications} />
          <div className="column">
            <Job key={resets} />
            <Connection />
          </div>
          <Log key={resets} />
        </div>
      </main>
    </>
  );
}
