// The page of the tests of the client: opens clients by name, and keeps what each hears.
import { decompress } from "../../../src/compression/index.js";
import { fetchTransport } from "../../../src/fetch/index.js";
import { FoghornClient, type FoghornOptions } from "../../../src/index.js";
import { liveChanges } from "../../../src/live/index.js";

/** What a client on the page has heard, and what it says of itself. */
export interface Heard {
  readonly client: FoghornClient;
  /** `type channel data` of each event. */
  readonly events: string[];
  readonly statuses: string[];
  readonly errors: string[];
  /** The types of the problems that the server named. */
  readonly problems: string[];
  /** `recovered` of each `connected`. */
  readonly recovered: boolean[];
}

export interface Opening extends Omit<FoghornOptions, "transport" | "decode" | "change"> {
  url: string;
  types: readonly string[];
  transport?: "fetch";
  /** Whether it is known by a token of the test's own, a new one each time: `fetch` sends it, others get a ticket. */
  mints?: boolean;
  /** Whether its stream is changed when its channels do. */
  changes?: boolean;
  /** Whether it unpacks what publishers have compressed. */
  decompresses?: boolean;
}

const records: Record<string, Heard> = {};

function open(name: string, { types, transport, mints, changes, decompresses, ...options }: Opening): void {
  const events: string[] = [];
  const statuses: string[] = [];
  const errors: string[] = [];
  const problems: string[] = [];
  const recovered: boolean[] = [];
  const client = new FoghornClient({
    ...options,
    ...(transport === "fetch" ? { transport: fetchTransport(mints ? { headers: bearer } : {}) } : {}),
    ...(transport === undefined && mints ? { prepare: withTicket } : {}),
    ...(changes ? { change: liveChanges(mints ? { headers: bearer } : {}) } : {}),
    ...(decompresses ? { decode: decompress() } : {}),
    onStatus: (status) => statuses.push(status),
    onError: (error) => {
      errors.push(error.code);
      if (error.problem?.type !== undefined) {
        problems.push(error.problem.type);
      }
    },
  });
  for (const type of [...types, "stream-reset"]) {
    client.on(type, (data, event) => events.push([type, event.channel, JSON.stringify(data)].join(" ")));
  }
  client.on("connected", (data) => recovered.push(data.recovered));
  records[name] = { client, events, statuses, errors, problems, recovered };
  client.connect();
}

async function withTicket(url: URL): Promise<void> {
  const answer = await fetch(`${url.origin}${url.pathname}/ticket`, {
    method: "POST",
    headers: await bearer(),
  });
  url.searchParams.set("ticket", (await answer.json()).ticket);
}

async function bearer(): Promise<{ Authorization: string }> {
  return { Authorization: `Bearer ${await window.mint()}` };
}

declare global {
  interface Window {
    mint(): Promise<string>;
    /** What a worker says. */
    heard: string[];
    records: Record<string, Heard>;
    openClient: typeof open;
  }
}

window.records = records;
window.heard = [];
window.openClient = open;
