// The page of the tests of tab sharing: one shared client, and what it hears.
import { SharedFoghornClient, type SharedFoghornOptions } from "../../../src/tabs/index.js";

export interface Joining extends SharedFoghornOptions {
  url: string;
  types: readonly string[];
}

const events: string[] = [];

function join({ types, ...options }: Joining): void {
  const client = new SharedFoghornClient(options);
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
