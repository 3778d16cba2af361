import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { fetchTransport } from "../../src/fetch/index.js";
import { FoghornClient, type FoghornError, type FoghornOptions } from "../../src/index.js";

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

let server: Server | undefined;
let client: FoghornClient | undefined;

afterEach(() => {
  client?.close();
  server?.closeAllConnections();
  server?.close();
});

/** A server that gives its n-th request to the n-th answer, and a client of it. */
async function setUp(answers: Answer[], transport = fetchTransport(), options: FoghornOptions = {}) {
  const requests: IncomingMessage[] = [];
  const started = createServer((request, response) => {
    requests.push(request);
    answers[Math.min(requests.length, answers.length) - 1]?.(request, response);
  });
  server = started;
  await new Promise<void>((resolve) => started.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(started.address() as AddressInfo).port}/api/events`;
  const errors: FoghornError[] = [];
  client = new FoghornClient({ url, transport, onError: (error) => errors.push(error), ...options });
  return { client, requests, errors };
}

const stream = (text: string, end = false): Answer => {
  return (_, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
    response.write(text);
    if (end) {
      response.end();
    }
  };
};

const connected = `id: c0\nevent: connected\nretry: 20\ndata: {"clientId":"1","recovered":false}\n\n`;
const event = (id: string, data: string): string =>
  `id: ${id}\ndata: ${JSON.stringify({ channel: "a", event: "message", time: "", data })}\n\n`;

function next(client: FoghornClient, type: string): Promise<unknown> {
  return new Promise((resolve) => {
    const off = client.on(type, (data) => {
      off();
      resolve(data);
    });
  });
}

const status = (client: FoghornClient, wanted: string): Promise<void> =>
  new Promise((resolve) => client.onStatus((status) => status === wanted && resolve()));

it("brings events with headers, and comes back with the cursor when the stream ends", async () => {
  const { client, requests } = await setUp(
    [stream(connected + event("e1", "one"), true), stream(connected + event("e2", "two"))],
    fetchTransport({ headers: { Authorization: "Bearer abc" } }),
  );
  const heard: unknown[] = [];
  client.on("message", (data) => heard.push(data));
  client.connect();
  await next(client, "message");
  await next(client, "message");
  expect(heard).toEqual(["one", "two"]);
  expect(requests[0]?.headers).toMatchObject({ authorization: "Bearer abc", accept: "text/event-stream" });
  expect(requests[1]?.url).toContain("lastEventId=e1");
});

it("asks for headers anew before each connection, also after 401", async () => {
  let token = 0;
  const headers = async () => ({ Authorization: `Bearer ${++token}` });
  const unauthenticated: Answer = (_, response) => response.writeHead(401).end();
  const { client, requests } = await setUp([unauthenticated, stream(connected)], fetchTransport({ headers }));
  client.connect();
  await next(client, "connected");
  expect(requests.map((request) => request.headers.authorization)).toEqual(["Bearer 1", "Bearer 2"]);
});

it("a cursor without an event counts, and headers that can't be had are tried again", async () => {
  let fails = true;
  const headers = () => {
    if (fails) {
      fails = false;
      throw new Error("no token");
    }
    return {};
  };
  const answer = stream(`${connected}id: k1\n\n`, true);
  const { client, requests, errors } = await setUp([answer, stream(connected)], fetchTransport({ headers }));
  client.connect();
  await next(client, "connected");
  await next(client, "connected");
  expect(errors.map((error) => error.code)).toEqual(["prepare-failed", "connection-lost"]);
  expect(requests[1]?.url).toContain("lastEventId=k1");
});

describe("a refusal", () => {
  const problem: Answer = (_, response) => {
    response.writeHead(403, { "Content-Type": "application/problem+json" });
    response.end(
      JSON.stringify({ type: "https://foghorn.dev/problems/access-denied", detail: "not for you" }),
    );
  };

  it("that is final ends it, and says why", async () => {
    const { client, requests, errors } = await setUp([problem]);
    client.connect();
    await status(client, "disconnected");
    await expect.poll(() => errors.length).toBe(1);
    expect(errors[0]).toMatchObject({ code: "refused", status: 403, problem: { detail: "not for you" } });
    expect(errors[0]?.message).toContain("not for you");
    expect(requests).toHaveLength(1);
  });

  it.each([401, 400, 404, 204])("%i is final", async (code) => {
    const { client, errors } = await setUp([(_, response) => response.writeHead(code).end()]);
    client.connect();
    await status(client, "disconnected");
    await expect.poll(() => errors.map((error) => error.status)).toEqual([code]);
  });

  it.each([500, 503, 429])("%i is tried again", async (code) => {
    const refused: Answer = (_, response) => response.writeHead(code).end();
    const { client, errors } = await setUp([refused, stream(connected)]);
    client.connect();
    await next(client, "connected");
    expect(errors.map((error) => error.status)).toEqual([code]);
  });

  it("is also something else than a stream", async () => {
    const page: Answer = (_, response) => {
      response.writeHead(200, { "Content-Type": "text/html" });
      response.end("<!doctype html>");
    };
    const { client, errors } = await setUp([page, stream(connected)]);
    client.connect();
    await next(client, "connected");
    expect(errors[0]).toMatchObject({ code: "refused", status: 200 });
    expect(errors[0]?.message).toContain("text/html");
  });
});

it("leaves out an event over the bound, tells of it, and goes on behind it", async () => {
  const text = connected + event("e1", "x".repeat(2_000)) + event("e2", "small");
  const { client, errors } = await setUp([stream(text)], fetchTransport({ maxEventLength: 1_000 }));
  client.connect();
  expect(await next(client, "message")).toBe("small");
  expect(errors.map((error) => error.code)).toEqual(["event-too-large"]);
  expect(client.lastEventId).toBe("e2");
});

it("tells of a server that isn't there, and finds it when it is", async () => {
  const { client, errors } = await setUp([(request) => request.socket.destroy(), stream(connected)]);
  client.connect();
  await next(client, "connected");
  expect(errors.map((error) => error.code)).toEqual(["connection-lost"]);
});

it("closes the connection when the client is closed", async () => {
  let isClosed = false;
  const answer: Answer = (request, response) => {
    request.socket.on("close", () => {
      isClosed = true;
    });
    stream(connected)(request, response);
  };
  const { client, errors } = await setUp([answer]);
  client.connect();
  await next(client, "connected");
  client.close();
  await expect.poll(() => isClosed).toBe(true);
  expect(errors).toEqual([]);
});
