import { FoghornError } from "./error.js";
import type { FoghornOptions } from "./options.js";

const CHANNELS = "channels";

/** The address that the options name, and the channels in its query. */
export function readUrl(options: FoghornOptions): { address: string; channels: string[] } {
  const address = String(options.url ?? "/api/events");
  // Any base will do: only the query is looked at, and a base can only be missing where connecting fails anyway.
  const query = new URL(address, "http://localhost").searchParams;
  const channels = query.getAll(CHANNELS).flatMap((list) => list.split(","));
  return { address, channels: channels.filter((channel) => channel !== "") };
}

/** The URL of a stream on these channels that goes on from a cursor, if there is one. */
export function streamUrl(
  address: string,
  options: FoghornOptions,
  channels: readonly string[],
  cursor: string,
): URL {
  const url = resolve(address);
  const query = url.searchParams;
  const set = (key: string, value: string | number | undefined): void => {
    if (value === undefined || value === "") {
      query.delete(key);
    } else {
      query.set(key, String(value));
    }
  };
  set(CHANNELS, channels.join(","));
  if (options.events !== undefined) {
    set("events", [...options.events].join(","));
  }
  // The items of a batch name their channel by themselves, and the server has it one way or the other.
  if (options.batch === undefined) {
    set("envelope", 1);
  } else {
    set("batch", options.batch);
  }
  if (options.heartbeatTimeout !== 0) {
    set("heartbeat", 1);
  }
  if (cursor === "") {
    set("since", options.since ?? query.get("since") ?? undefined);
    set("last", options.last ?? query.get("last") ?? undefined);
  } else {
    set("lastEventId", cursor);
    query.delete("since");
    query.delete("last");
  }
  return url;
}

function resolve(address: string): URL {
  try {
    return new URL(address, globalThis.location?.href);
  } catch (cause) {
    throw new FoghornError("unsupported", `${address} has to be a whole URL where there is no page`, {
      cause,
    });
  }
}
