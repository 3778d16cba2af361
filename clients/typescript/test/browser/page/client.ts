// The page of the tests of the client: opens clients by name, and keeps what each hears.
import { fetchTransport } from "../../../src/fetch/index.js";
import { FoghornClient, type FoghornOptions } from "../../../src/index.js";

/** What a client on the page has heard, and what it says of itself. */
export interface Heard {
  readonly client: FoghornClient;
  /** `type channel data` of each event. */
  readonly events: string[];
  readonly statuses: string[];
  readonly errors: string[];
  /** `recovered` of each `connected`. */
  readonly recovered: boolean[];
}

export interface Opening extends Omit<FoghornOptions, "transport"> {
  url: string;
  types: readonly string[];
  transport?: "fetch";
}

const records: Record<string, Heard> = {};

function open(name: string, { types, transport, ...options }: Opening): void {
  const events: string[] = [];
  const statuses: string[] = [];
  const errors: string[] = [];
  const recovered: boolean[] = [];
  const client = new FoghornClient({
    ...options,
    ...(transport === "fetch" ? { transport: fetchTransport() } : {}),
    onStatus: (status) => statuses.push(status),
    onError: (error) => errors.push(error.code),
  });
  for (const type of [...types, "stream-reset"]) {
    client.on(type, (data, event) => events.push([type, event.channel, JSON.stringify(data)].join(" ")));
  }
  client.on("connected", (data) => recovered.push(data.recovered));
  records[name] = { client, events, statuses, errors, recovered };
  client.connect();
}

declare global {
  interface Window {
    records: Record<string, Heard>;
    openClient: typeof open;
  }
}

window.records = records;
window.openClient = open;
