import type { Message } from "./events.js";
import type { RawEvent } from "./transport.js";

/** The event in an envelope: a line of JSON `{channel, event, time, data}`. */
export function unpackEnvelope(raw: RawEvent): Message {
  const envelope = parseObject(raw.data);
  if (typeof envelope?.channel === "string" && typeof envelope.data === "string") {
    const time = typeof envelope.time === "string" ? envelope.time : undefined;
    return { type: raw.type, channel: envelope.channel, id: raw.id, time, text: envelope.data };
  }
  // Of a server that doesn't know of envelopes. The event is still an event.
  return { type: raw.type, channel: "", id: raw.id, time: undefined, text: raw.data };
}

/** The events of a batch: a JSON array of `{id, event, channel, data}`. */
export function unpackBatch(raw: RawEvent): Message[] {
  let items: unknown;
  try {
    items = JSON.parse(raw.data);
  } catch {
    items = undefined;
  }
  if (!Array.isArray(items)) {
    return [{ type: raw.type, channel: "", id: raw.id, time: undefined, text: raw.data }];
  }
  return items.map((item) => ({
    type: String(item.event),
    channel: String(item.channel),
    id: String(item.id),
    time: undefined,
    text: String(item.data),
  }));
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
