import type { Notification, NotificationsResult } from "@foghorn/client/react";
import { type ReactElement, useRef } from "react";
import { ask } from "../server";
import { Button } from "./button";
import { Card } from "./card";

/** What the user was told, read or not. */
export function Feed({
  notifications,
  unreadCount,
  isLoading,
  error,
  markAsRead,
  markAllAsRead,
}: NotificationsResult): ReactElement {
  const heading = useRef<HTMLHeadingElement>(null);
  const mark = async (marking: Promise<void>): Promise<void> => {
    await marking;
    // The button that was pressed is gone; focus must not be.
    heading.current?.focus();
  };
  const actions = (
    <>
      <Button action={() => ask("/demo/notification")}>Notify me</Button>
      <Button action={() => mark(markAllAsRead())} isOff={unreadCount === 0}>
        Mark all as read
      </Button>
    </>
  );
  return (
    <Card
      id="notifications"
      title="Notifications"
      heading={heading}
      how={
        <>
          What you are told, kept on the server: <code>useNotifications()</code> fetches it, hears what comes,
          and <code>markAsRead(id)</code> shows in all of your tabs at once.
        </>
      }
      actions={actions}
    >
      <p className="unseen" role="status">
        {unreadCount === 0 ? "Nothing unread" : `${unreadCount} unread`}
      </p>
      {error !== null && <p className="wrong">{error.message}</p>}
      {notifications.length === 0 && !isLoading && <p className="quiet">Nothing yet.</p>}
      <ul className="feed">
        {notifications.map((notification) => (
          <Item
            key={notification.id}
            notification={notification}
            markAsRead={() => mark(markAsRead(notification.id))}
          />
        ))}
      </ul>
    </Card>
  );
}

interface ItemProps {
  notification: Notification;
  markAsRead: () => Promise<void>;
}

function Item({ notification, markAsRead }: ItemProps): ReactElement {
  const { type, title, message, link, read, createdAt } = notification;
  return (
    <li className={read ? "read" : "unread"}>
      <span className={`level ${type}`}>{type}</span>
      <div className="text">
        <strong>{link === undefined ? title : <a href={link}>{title}</a>}</strong>
        <p>{message}</p>
        <time dateTime={createdAt}>{new Date(createdAt).toLocaleTimeString()}</time>
      </div>
      {!read && (
        <Button action={markAsRead} label={`Mark as read: ${title}`}>
          Mark as read
        </Button>
      )}
    </li>
  );
}
