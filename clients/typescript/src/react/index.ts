"use client";

export type { EventsResult } from "./event-store.js";
/**
 * React hooks. All components below a `FoghornProvider` share its one connection.
 *
 * @module
 */
export {
  type EventMapOptions,
  type EventsOptions,
  type FoghornResult,
  useEventHandler,
  useEventMap,
  useEventMap as useSSEMultiple,
  useEvents,
  useEvents as useSSE,
  useFoghorn,
} from "./hooks.js";
export {
  type Notification,
  type NotificationsOptions,
  type NotificationsResult,
  useNotifications,
} from "./notifications.js";
export { FoghornProvider, type FoghornProviderProps } from "./provider.js";
