import type { ReactElement } from "react";

/** How many notifications are unread, on every page of an application. Leads to them. */
export function Bell({ unread }: { unread: number }): ReactElement {
  return (
    <a className="bell" href="#notifications" aria-label={`Notifications: ${unread} unread`}>
      <svg viewBox="0 0 24 24" aria-hidden="true">
        <path d="M12 3a6 6 0 0 0-6 6v4l-2 3v1h16v-1l-2-3V9a6 6 0 0 0-6-6Zm-2.5 15a2.5 2.5 0 0 0 5 0Z" />
      </svg>
      {unread > 0 && (
        <span className="badge" aria-hidden="true">
          {unread > 99 ? "99+" : unread}
        </span>
      )}
    </a>
  );
}
