import { useEvents, useFoghorn } from "@foghorn/client/react";
import { type ReactElement, useSyncExternalStore } from "react";
import { client } from "../client";
import { Card } from "./card";

const WORDS = { connecting: "Connecting …", connected: "Live", disconnected: "Disconnected" };

/** How it stands with the connection, on every page of an application. */
export function StatusDot(): ReactElement {
  const { status } = useFoghorn();
  return (
    <span className="live" data-status={status} role="status">
      {WORDS[status]}
    </span>
  );
}

/** Whether this tab has the connection. It comes to lead before the connection that it makes then is there. */
function useIsLeader(): boolean {
  return useSyncExternalStore(
    (onChange) => client.onStatus(onChange),
    () => client.isLeader,
  );
}

/** Which of the tabs holds the connection, and how it came to it. */
export function Connection(): ReactElement {
  const isLeader = useIsLeader();
  const { event } = useEvents<{ recovered: boolean }>(null, "connected");
  return (
    <Card
      id="tabs"
      title="Tabs in step"
      how={
        <>
          However many tabs you open, they share one connection: <code>new SharedFoghornClient()</code>, and
          below it <code>useFoghorn()</code> for the status. When the tab that holds it is closed, another
          goes on from the last event.
        </>
      }
      actions={
        <a className="button" href="/" target="_blank" rel="noopener">
          Open a second tab
        </a>
      }
    >
      <p className="tab">
        {isLeader ? "This tab holds the connection." : "Another tab holds the connection."}
      </p>
      {event !== null && (
        <p className="quiet">
          {event.data.recovered ? "It came back, and went on where it was." : "It is a new one."}
        </p>
      )}
      <p className="quiet">
        Try it: close the tab that holds it, turn the network off in the developer tools, or stop{" "}
        <code>foghorn demo</code> and start it again.
      </p>
    </Card>
  );
}
