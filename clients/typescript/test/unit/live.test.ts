import { expect, it } from "vitest";
import type { FoghornError, StreamChange } from "../../src/index.js";
import { liveChanges } from "../../src/live/index.js";

const CHANGE: StreamChange = {
  url: "https://events.test/api/events?channels=a&lastEventId=x",
  clientId: "0123",
  channels: ["a", "b.*"],
  withCredentials: true,
};

/** Changes that are answered like this, and what was asked. */
function setUp(answer: () => Response | Promise<Response>, headers?: () => Promise<Record<string, string>>) {
  const asked: { url: string; init: RequestInit }[] = [];
  const refused: FoghornError[] = [];
  const change = liveChanges({
    fetch: async (url, init = {}) => {
      asked.push({ url: String(url), init });
      return answer();
    },
    onRefused: (error) => refused.push(error),
    ...(headers === undefined ? {} : { headers }),
  });
  return { change, asked, refused };
}

it("asks beside the stream, with fresh headers and with cookies as they are sent for it", async () => {
  let tokens = 0;
  const token = async () => ({ Authorization: `Bearer ${++tokens}` });
  const { change, asked, refused } = setUp(() => Response.json({}), token);
  await change(CHANGE);
  await change({ ...CHANGE, withCredentials: false });
  expect(asked.map(({ url }) => url)).toEqual(Array(2).fill("https://events.test/api/events/subscribe"));
  const [first, second] = asked.map(({ init }) => init);
  expect(JSON.parse(String(first?.body))).toEqual({ clientId: "0123", channels: ["a", "b.*"] });
  expect([first?.method, first?.credentials, second?.credentials]).toEqual([
    "POST",
    "include",
    "same-origin",
  ]);
  const sent = asked.map(({ init }) => Object.fromEntries(init.headers as Headers));
  expect(sent).toEqual(
    [1, 2].map((n) => ({ authorization: `Bearer ${n}`, "content-type": "application/json" })),
  );
  expect(refused).toEqual([]);
});

it("says why a change is refused, and fails", async () => {
  const problem = { type: "https://foghorn.test/problems#access-denied", detail: "not b" };
  const headers = { "Content-Type": "application/problem+json" };
  const { change, refused } = setUp(() => new Response(JSON.stringify(problem), { status: 403, headers }));
  await expect(change(CHANGE)).rejects.toMatchObject({ code: "refused", status: 403, problem });
  expect(refused).toHaveLength(1);
});

it("says when nobody answers, and fails", async () => {
  const { change, refused } = setUp(() => Promise.reject(new TypeError("no route")));
  await expect(change(CHANGE)).rejects.toMatchObject({ code: "connection-lost" });
  expect(refused).toHaveLength(1);
});
