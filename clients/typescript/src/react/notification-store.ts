import { FoghornError } from "../error.js";
import type { Unsubscribe } from "../events.js";
import { refusal } from "../fetch/refusal.js";
import type { Connection } from "./connection.js";
import type { Notification, NotificationsOptions, NotificationsResult } from "./notifications.js";

/** How long an answer is waited for, in milliseconds. */
const ANSWER_MS = 10_000;

interface Page {
  readonly notifications: readonly Notification[];
  readonly unread: number;
}

type Options = NotificationsOptions & { readonly url: string; readonly limit: number };

/** A user's notifications, for `useSyncExternalStore`. */
export class NotificationStore {
  readonly #connection: Connection;
  readonly #options: Options;
  #result: NotificationsResult;
  #onChange: (() => void) | undefined;
  /** Ends what is being fetched. */
  #fetching: AbortController | undefined;
  /** Something has changed since that began. */
  #isOutdated = false;
  /** What came since it began: newer than what it gives. */
  #arrived: Notification[] = [];
  #counted: number | undefined;
  /** Whether the last event was a notification, which explains the count that comes with it. */
  #explained = false;

  constructor(connection: Connection, options: Options) {
    this.#connection = connection;
    this.#options = options;
    this.#result = {
      notifications: [],
      unreadCount: 0,
      isLoading: true,
      error: null,
      markAsRead: (id) => this.#mark(`/${encodeURIComponent(id)}/read`, (one) => one.id === id),
      markAllAsRead: () => this.#mark("/read-all", () => true),
    };
  }

  readonly get = (): NotificationsResult => this.#result;

  readonly subscribe = (onChange: () => void): Unsubscribe => {
    this.#onChange = onChange;
    const { client } = this.#connection;
    const { user } = this.#options;
    // Heard unasked by whoever has a token; who has none says whose they are.
    const channel = user === undefined ? "user.*" : userChannel(user);
    const undo = [
      user === undefined ? () => {} : client.subscribe(channel),
      client.on("notification", (data: Notification) => this.#arrive(data), { channel }),
      client.on("notification-count", (data: { unread: number }) => this.#count(data.unread), { channel }),
      // After a reconnect what was missed comes by itself, or doesn't: then only asking helps.
      client.onConnect(() => this.#refresh()),
    ];
    if (client.isConnected) {
      this.#refresh();
    }
    return () => {
      this.#onChange = undefined;
      this.#fetching?.abort();
      this.#fetching = undefined;
      for (const each of undo) {
        each();
      }
    };
  };

  #change(changes: Partial<NotificationsResult>): void {
    this.#result = { ...this.#result, ...changes };
    this.#onChange?.();
  }

  #arrive(notification: Notification): void {
    this.#explained = true;
    this.#arrived = [notification, ...this.#arrived].slice(0, this.#options.limit);
    this.#change({ notifications: this.#with([notification], this.#result.notifications) });
  }

  #count(unread: number): void {
    this.#counted = unread;
    this.#change({ unreadCount: unread });
    if (!this.#explained) {
      // Some were marked or erased elsewhere.
      this.#refresh();
    }
    this.#explained = false;
  }

  /** These before those, each id once, as many as are kept. */
  #with(newer: readonly Notification[], older: readonly Notification[]): readonly Notification[] {
    const ids = new Set(newer.map((one) => one.id));
    return [...newer, ...older.filter((one) => !ids.has(one.id))].slice(0, this.#options.limit);
  }

  /** Fetches what there is; once more, if asked meanwhile. */
  #refresh(): void {
    if (this.#fetching !== undefined) {
      this.#isOutdated = true;
      return;
    }
    const fetching = new AbortController();
    this.#fetching = fetching;
    this.#isOutdated = false;
    this.#arrived = [];
    this.#counted = undefined;
    this.#ask("GET", "", fetching.signal)
      .then((answer) => answer.json() as Promise<Page>)
      .then(
        (page) => {
          if (!fetching.signal.aborted) {
            // What it has already is as it says; what came since is newer.
            const known = new Set(page.notifications.map((one) => one.id));
            const since = this.#arrived.filter((one) => !known.has(one.id));
            this.#change({
              notifications: this.#with(since, page.notifications),
              unreadCount: this.#counted ?? page.unread,
              isLoading: false,
              error: null,
            });
          }
        },
        (cause) => {
          if (!fetching.signal.aborted) {
            this.#change({ error: errorOf(cause) });
          }
        },
      )
      .then(() => {
        if (this.#fetching === fetching) {
          this.#fetching = undefined;
          if (this.#isOutdated) {
            this.#refresh();
          }
        }
      });
  }

  async #mark(path: string, isMarked: (one: Notification) => boolean): Promise<void> {
    try {
      await (await this.#ask("POST", path)).body?.cancel();
    } catch (cause) {
      const error = errorOf(cause);
      this.#change({ error });
      throw error;
    }
    const { notifications } = this.#result;
    this.#change({
      notifications: notifications.map((one) => (isMarked(one) ? { ...one, read: true } : one)),
      error: null,
    });
  }

  async #ask(method: "GET" | "POST", path: string, signal?: AbortSignal): Promise<Response> {
    const { url, user, limit, withCredentials, headers } = this.#options;
    const address = new URL(url, globalThis.location?.href);
    address.pathname = `${address.pathname.replace(/\/$/, "")}${path}`;
    if (method === "GET") {
      address.searchParams.set("limit", String(limit));
    }
    if (user !== undefined) {
      address.searchParams.set("user", user);
    }
    const timeout = AbortSignal.timeout(ANSWER_MS);
    const given = await headers?.();
    const answer = await fetch(address, {
      method,
      ...(given === undefined ? {} : { headers: given }),
      credentials: withCredentials ? "include" : "same-origin",
      cache: "no-store",
      signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
    });
    if (!answer.ok) {
      throw await refusal(answer);
    }
    return answer;
  }
}

function errorOf(cause: unknown): FoghornError {
  return cause instanceof FoghornError
    ? cause
    : new FoghornError("connection-lost", "notifications could not be asked for", { cause });
}

/** The channel of a user, as the server names it. */
function userChannel(user: string): string {
  if (/^[A-Za-z0-9_-]+$/.test(user)) {
    return `user.${user}`;
  }
  const bytes = new TextEncoder().encode(user);
  const base64 = btoa(String.fromCharCode(...bytes));
  return `user.~${base64.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}
