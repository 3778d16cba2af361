import { expect, it } from "vitest";
import { FoghornClient } from "../../src/index.js";

interface Notification {
  title: string;
}

// The compiler is the test: each of these must or must not be accepted.
it("types of events are the application's own", () => {
  const client = new FoghornClient<{ notification: Notification; count: number }>();
  client.on("notification", ({ title }, event) => [title.length, event.data.title, event.channel]);
  client.on("count", (count) => count.toFixed());
  client.on("stream-reset", ({ reason }) => reason.length);
  client.on("connected", ({ recovered }) => !recovered);
  // @ts-expect-error: there is no such type.
  client.on("notifications", () => {});
  // @ts-expect-error: a count is a number.
  client.on("count", (count: string) => count);
  const untyped = new FoghornClient();
  untyped.on("anything", (data: Notification) => data.title);
  untyped.on("stream-live", ({ replayed }) => replayed.toFixed());
  expect(client.status).toBe("disconnected");
});
