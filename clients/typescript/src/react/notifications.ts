import { useMemo, useSyncExternalStore } from "react";
import type { FoghornError } from "../error.js";
import type { HeaderList } from "../fetch/index.js";
import { NotificationStore } from "./notification-store.js";
import { useConnection } from "./provider.js";

/** What a user is told. */
export interface Notification {
  readonly id: string;
  readonly type: "info" | "warning" | "error" | "success";
  readonly title: string;
  readonly message: string;
  /** Where to read more: http(s), or relative. */
  readonly link?: string;
  readonly read: boolean;
  /** RFC 3339. */
  readonly createdAt: string;
}

/** Where a user's notifications are. */
export interface NotificationsOptions {
  /** Their address; `/api/notifications` by default, of the page's own origin. Its query is kept. */
  url?: string;
  /** Whose they are, where the server asks nobody for a token; `user.<id>` is subscribed to then. */
  user?: string | undefined;
  /** How many of the newest are kept; 50 by default, 200 at most. */
  limit?: number;
  /** Send cookies also to another origin than the page's. */
  withCredentials?: boolean;
  /** Headers of every request, such as `Authorization`. A function is called before each; it should be the same one with every render. */
  headers?: (() => HeaderList | Promise<HeaderList>) | undefined;
}

/** What `useNotifications` gives. */
export interface NotificationsResult {
  /** The newest, the newest first. */
  readonly notifications: readonly Notification[];
  /** How many of all are unread, also of those that are not here. */
  readonly unreadCount: number;
  /** Whether they have yet to be fetched for the first time. */
  readonly isLoading: boolean;
  /** Why they could not be fetched or marked last, until they can again. */
  readonly error: FoghornError | null;
  /** Marks one as read; fulfilled when the server has, rejected when it hasn't. */
  readonly markAsRead: (id: string) => Promise<void>;
  /** Marks all as read, likewise. */
  readonly markAllAsRead: () => Promise<void>;
}

/**
 * The notifications of whoever the provider's client is known as: fetched whenever it has connected, and kept up by
 * what it hears. All tabs and devices of a user are in step.
 */
export function useNotifications({
  url = "/api/notifications",
  user,
  limit = 50,
  withCredentials = false,
  headers,
}: NotificationsOptions = {}): NotificationsResult {
  const connection = useConnection();
  const store = useMemo(
    () => new NotificationStore(connection, { url, user, limit, withCredentials, headers }),
    [connection, url, user, limit, withCredentials, headers],
  );
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}
