import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { BaseClient } from "../base-client.js";
import type { AnyEvents, EventHandler, Status } from "../events.js";
import { EventStore, type EventsResult } from "./event-store.js";
import { MapStore } from "./map-store.js";
import { useConnection } from "./provider.js";

/** What `useFoghorn` gives. */
export interface FoghornResult<Events extends object> {
  readonly client: BaseClient<Events>;
  readonly status: Status;
  readonly isConnected: boolean;
}

/** How many events `useEvents` keeps. */
export interface EventsOptions {
  /** How many of the newest events `events` has; 1 by default. */
  limit?: number;
}

/** Which events `useEventMap` listens to. */
export interface EventMapOptions {
  /** The channel or pattern, which is subscribed to; all that the client hears by default. */
  channel?: string;
}

/** The provider's client, and how it stands with its connection. */
export function useFoghorn<Events extends object = AnyEvents>(): FoghornResult<Events> {
  const connection = useConnection();
  const { watchStatus, getStatus } = connection;
  const status = useSyncExternalStore(watchStatus, getStatus, getStatus);
  return { client: connection.client, status, isConnected: status === "connected" };
}

/**
 * Listens to a type of events on a channel or pattern, which is subscribed to for as long as the component is
 * there; with `null` on all channels that the client hears.
 *
 * React renders once for events that come together. What has to be done with each of them is `useEventHandler`'s,
 * what shows several `limit`'s.
 */
// biome-ignore lint/suspicious/noExplicitAny: data that nobody describes are anything.
export function useEvents<T = any>(
  channel: string | null,
  type: string,
  { limit = 1 }: EventsOptions = {},
): EventsResult<T> {
  const connection = useConnection();
  const store = useMemo(
    () => new EventStore<T>(connection, channel, type, limit),
    [connection, channel, type, limit],
  );
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}

/** The newest data of each of these types; a new map with each change. */
// biome-ignore lint/suspicious/noExplicitAny: data that nobody describes are anything.
export function useEventMap<T = any>(
  types: readonly string[],
  { channel }: EventMapOptions = {},
): ReadonlyMap<string, T> {
  const connection = useConnection();
  // An array is another one with each render. A type has no comma in it.
  const list = types.join(",");
  const store = useMemo(
    () => new MapStore<T>(connection, channel ?? null, list === "" ? [] : list.split(",")),
    [connection, channel, list],
  );
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}

/** Calls a function with every event of a type on a channel or pattern; with `null` on all channels. */
// biome-ignore lint/suspicious/noExplicitAny: data that nobody describes are anything.
export function useEventHandler<T = any>(
  channel: string | null,
  type: string,
  handler: EventHandler<T>,
): void {
  const connection = useConnection();
  const latest = useRef(handler);
  useEffect(() => {
    latest.current = handler;
  });
  useEffect(
    () => connection.listen<T>(channel, type, (data, event) => latest.current(data, event)),
    [connection, channel, type],
  );
}
