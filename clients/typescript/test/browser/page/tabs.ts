// The page of the tests of tab sharing: one shared client, and what it hears.
import { liveChanges } from "../../../src/live/index.js";
import { SharedFoghornClient, type SharedFoghornOptions } from "../../../src/tabs/index.js";

export interface Joining extends Omit<SharedFoghornOptions, "change"> {
  url: string;
  types: readonly string[];
  /** Whether the stream is changed when its channels do. */
  changes?: boolean;
}

const events: string[] = [];

function join({ types, changes, ...options }: Joining): void {
  const client = new SharedFoghornClient({
    ...options,
    ...(changes ? { change: liveChanges() } : {}),
  });
  for (const type of [...types, "stream-reset"]) {
    client.on(type, (data, event) => events.push([type, event.channel, JSON.stringify(data)].join(" ")));
  }
  window.shared = client;
  client.connect();
}

declare global {
  interface Window {
    shared: SharedFoghornClient;
    heard: string[];
    join: typeof join;
  }
}

window.heard = events;
window.join = join;
