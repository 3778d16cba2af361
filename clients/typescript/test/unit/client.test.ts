import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { FoghornClient, type FoghornError, type FoghornOptions, type StreamChange } from "../../src/index.js";
import { FakeTransport } from "../support/fake-transport.js";

const URL_ = "http://server.test/api/events";

function setUp(options: FoghornOptions = {}, renews = false) {
  const transport = new FakeTransport(renews);
  const told: string[] = [];
  const client = new FoghornClient({
    url: URL_,
    transport,
    onStatus: (status) => told.push(status),
    onError: (error: FoghornError) => told.push(error.code),
    ...options,
  });
  return { transport, client, told };
}

/** Runs timers until something was opened again. */
async function untilOpened(transport: FakeTransport, streams: number): Promise<void> {
  for (let step = 0; step < 10_000 && transport.streams.length < streams; step += 1) {
    await vi.advanceTimersByTimeAsync(10);
  }
  expect(transport.streams).toHaveLength(streams);
}

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

describe("events", () => {
  it("are given to the handlers of their type, parsed when they are JSON, with channel, cursor and time", () => {
    const { client, transport } = setUp();
    const heard: unknown[] = [];
    client.on("paid", (data, event) => heard.push([data, event.channel, event.id, event.time, event.text]));
    client.on("message", (data) => heard.push(data));
    client.connect();
    transport.last.connect();
    transport.last.event("paid", "orders.eu", { amount: 990 }, "e1");
    transport.last.event("message", "orders.eu", "no JSON: {", "e2");
    transport.last.event("shipped", "orders.eu", "nobody listens", "e3");
    expect(heard).toEqual([
      [{ amount: 990 }, "orders.eu", "e1", "2026-02-03T04:05:06.789Z", '{"amount":990}'],
      "no JSON: {",
    ]);
    expect(client.lastEventId).toBe("e3");
  });

  it("are routed by channel", () => {
    const { client, transport } = setUp({ channels: ["orders.*", "prices.*"] });
    const heard: string[] = [];
    client.on("changed", (_, event) => heard.push(`orders: ${event.channel}`), { channel: "orders.*" });
    client.on("changed", (_, event) => heard.push(`one: ${event.channel}`), { channel: "prices.gold" });
    client.on("changed", (_, event) => heard.push(`all: ${event.channel}`));
    client.connect();
    transport.last.event("changed", "orders.1", 1);
    transport.last.event("changed", "prices.tin", 1);
    transport.last.event("changed", "prices.gold", 1);
    expect(heard).toEqual([
      "orders: orders.1",
      "all: orders.1",
      "all: prices.tin",
      "one: prices.gold",
      "all: prices.gold",
    ]);
  });

  it("stop with off and with what on gave, for that handler only", () => {
    const { client, transport } = setUp();
    const [first, second, third] = [vi.fn(), vi.fn(), vi.fn()];
    const unsubscribe = client.on("a", first);
    client.on("a", second);
    client.on("a", third, { channel: "x" });
    client.connect();
    transport.last.event("a", "x", 1);
    unsubscribe();
    unsubscribe();
    client.off("a", third);
    transport.last.event("a", "x", 2);
    expect([first, second, third].map((handler) => handler.mock.calls.length)).toEqual([1, 2, 1]);
  });

  it("reach a handler once that was added twice", () => {
    const { client, transport } = setUp();
    const handler = vi.fn();
    client.on("a", handler);
    client.on("a", handler);
    client.connect();
    transport.last.event("a", "x", 1);
    expect(handler).toHaveBeenCalledTimes(1);
  });

  it("reach the other handlers when one throws or takes itself and others away", () => {
    const reported = vi.spyOn(console, "error").mockImplementation(() => {});
    const { client, transport } = setUp();
    const never = vi.fn();
    const last = vi.fn();
    client.on("a", () => {
      client.off("a", never);
      throw new Error("the application's own");
    });
    client.on("a", never);
    client.on("a", last);
    client.connect();
    transport.last.event("a", "x", 1);
    expect(never).not.toHaveBeenCalled();
    expect(last).toHaveBeenCalledTimes(1);
    expect(reported).toHaveBeenCalledTimes(1);
    expect(client.lastEventId).toBe("e1");
  });

  it("of a batch are unpacked, each with its own cursor", () => {
    const { client, transport } = setUp({ batch: 100 });
    const heard: unknown[] = [];
    client.on("paid", (data, { channel, id }) => heard.push([data, channel, id]));
    client.on("message", (data, { channel, id }) => heard.push([data, channel, id]));
    client.connect();
    expect([transport.last.query("batch"), transport.last.query("envelope")]).toEqual(["100", null]);
    const items = [
      { id: "e1", event: "paid", channel: "orders.1", data: "7" },
      { id: "e2", event: "message", channel: "orders.2", data: "text" },
    ];
    transport.last.send("batch", items, "e2");
    expect(heard).toEqual([
      [7, "orders.1", "e1"],
      ["text", "orders.2", "e2"],
    ]);
    expect(client.lastEventId).toBe("e2");
  });

  it("of a batch that a handler closes the client in come again, and no others", async () => {
    const { client, transport } = setUp({ batch: 100 });
    const heard: unknown[] = [];
    client.on("a", (data) => {
      heard.push(data);
      if (data === 1) {
        client.close();
      }
    });
    client.connect();
    const items = [1, 2].map((n) => ({ id: `e${n}`, event: "a", channel: "x", data: String(n) }));
    transport.last.send("batch", items, "e2");
    client.connect();
    expect(transport.last.query("lastEventId")).toBe("e1");
    expect(heard).toEqual([1]);
  });

  it("that come again with their id are left out", () => {
    const { client, transport } = setUp();
    const heard: unknown[] = [];
    client.on("a", (data) => heard.push(data));
    client.on("stream-reset", ({ reason }) => heard.push(reason));
    client.connect();
    transport.last.connect();
    transport.last.event("a", "x", 1, "e1");
    transport.last.event("a", "x", 2, "e2");
    transport.last.send("stream-reset", { reason: "expired" }, "e0");
    transport.last.event("a", "x", 2, "e2");
    transport.last.event("a", "x", 3, "e3");
    expect(heard).toEqual([1, 2, "expired", 3]);
  });

  it("of a server without envelopes are events, too", () => {
    const { client, transport } = setUp();
    const heard: unknown[] = [];
    client.on("metrics", (data, { channel }) => heard.push([data, channel]));
    client.connect();
    transport.last.send("metrics", { cpu: 0.5 });
    transport.last.send("metrics", "null");
    expect(heard).toEqual([
      [{ cpu: 0.5 }, ""],
      [null, ""],
    ]);
  });

  it("of the stream itself are given as they are", () => {
    const { client, transport } = setUp();
    const heard: unknown[] = [];
    client.on("connected", (data) => heard.push(data.recovered));
    client.on("stream-stale", () => heard.push("stale"));
    client.on("stream-live", ({ replayed }) => heard.push(replayed));
    client.on("stream-end", ({ reason }) => heard.push(reason));
    client.connect();
    transport.last.connect("c0", true);
    transport.last.send("stream-live", { replayed: 3 }, "c0");
    transport.last.send("stream-stale", {});
    transport.last.send("stream-end", { reason: "drain" });
    expect(heard).toEqual([true, 3, "stale", "drain"]);
    expect(client.clientId).toBe("client-c0");
  });

  it("of types that are wanted later are asked for on the open stream", () => {
    const { client, transport } = setUp();
    client.on("a", () => {});
    client.connect();
    client.on("b", () => {});
    expect([...transport.last.wanted]).toEqual(
      expect.arrayContaining(["a", "b", "connected", "stream-reset"]),
    );
  });
});

describe("the request", () => {
  it("asks for channels, envelope and heartbeats, and where to begin", () => {
    const { client, transport } = setUp({ channels: ["b.>", "a"], last: 20, events: ["paid", "message"] });
    client.connect();
    expect(transport.last.request.url).toBe(
      `${URL_}?channels=a%2Cb.%3E&events=paid%2Cmessage&envelope=1&heartbeat=1&last=20`,
    );
  });

  it("keeps the query that it was given, and its channels", () => {
    const { client, transport } = setUp({ url: `${URL_}?channels=a,b&tenant=7`, channels: ["c"] });
    client.connect();
    expect([transport.last.query("channels"), transport.last.query("tenant")]).toEqual(["a,b,c", "7"]);
  });

  it("begins where an earlier client ended", () => {
    const { client, transport } = setUp({ lastEventId: "kept", last: 5 });
    client.connect();
    expect([transport.last.query("lastEventId"), transport.last.query("last")]).toEqual(["kept", null]);
  });

  it("is prepared anew before each connection", async () => {
    let tickets = 0;
    const prepare = async (url: URL) => {
      tickets += 1;
      url.searchParams.set("ticket", String(tickets));
    };
    const { client, transport } = setUp({ prepare });
    client.connect();
    await untilOpened(transport, 1);
    expect(transport.last.query("ticket")).toBe("1");
    transport.last.connect();
    // Although EventSource would: its URL has a ticket that is spent.
    transport.last.lose({ reconnects: true });
    expect(transport.streams[0]?.closed).toBe(true);
    await untilOpened(transport, 2);
    expect([transport.last.query("ticket"), transport.last.query("lastEventId")]).toEqual(["2", "c0"]);
  });

  it("is given up quietly when the client is closed while it is prepared", async () => {
    let finish = () => {};
    const prepare = () => new Promise<undefined>((resolve) => (finish = () => resolve(undefined)));
    const { client, transport, told } = setUp({ prepare });
    client.connect();
    client.close();
    finish();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(transport.streams).toHaveLength(0);
    expect(told).toEqual(["connecting", "disconnected"]);
  });

  it("is tried again when it can't be prepared", async () => {
    let fails = 3;
    const prepare = async (): Promise<undefined> => {
      fails -= 1;
      if (fails >= 0) {
        throw new Error("no token");
      }
    };
    const { client, transport, told } = setUp({ prepare });
    client.connect();
    await untilOpened(transport, 1);
    expect(told).toEqual(["connecting", "prepare-failed", "prepare-failed", "prepare-failed"]);
  });
});

describe("status", () => {
  it("is connecting, connected, disconnected, and tells each", () => {
    const calls: string[] = [];
    const { client, transport, told } = setUp({
      onConnect: () => calls.push("connect"),
      onDisconnect: () => calls.push("disconnect"),
    });
    expect([client.status, client.readyState, client.isConnected]).toEqual(["disconnected", 2, false]);
    client.connect();
    client.connect();
    expect([client.status, client.readyState, client.isConnected]).toEqual(["connecting", 0, false]);
    transport.last.connect();
    expect([client.status, client.readyState, client.isConnected]).toEqual(["connected", 1, true]);
    client.close();
    client.close();
    expect([client.status, client.readyState, client.isConnected]).toEqual(["disconnected", 2, false]);
    expect(told).toEqual(["connecting", "connected", "disconnected"]);
    expect(calls).toEqual(["connect", "disconnect"]);
    expect(transport.streams).toHaveLength(1);
  });

  it("leaves no timer behind when it is closed", () => {
    const { client, transport } = setUp();
    client.connect();
    transport.last.connect();
    transport.last.lose();
    client.close();
    expect(vi.getTimerCount()).toBe(0);
  });

  it("is disconnected when connecting can't even begin", () => {
    const client = new FoghornClient({ url: "/api/events" });
    expect(() => client.connect()).toThrow(expect.objectContaining({ code: "unsupported" }));
    const native = new FoghornClient({ url: URL_ });
    expect(() => native.connect()).toThrow(/@foghorn\/client\/fetch/);
    expect([client.status, vi.getTimerCount()]).toEqual(["disconnected", 0]);
  });
});

it("pitfall 5, what is never removed: what was undone leaves nothing behind, however often", async () => {
  const { client, transport } = setUp();
  client.connect();
  transport.last.connect();
  const heard = vi.fn();
  for (let n = 0; n < 1_000; n += 1) {
    const undo = [
      client.on(`type-${n}`, heard),
      client.on("a", heard, { channel: `channel.${n}` }),
      client.subscribe(`channel.${n}`),
      client.onStatus(heard),
      client.onError(heard),
    ];
    for (const each of undo) {
      each();
    }
  }
  await vi.advanceTimersByTimeAsync(1_000);
  // All of it was undone before it was worth a reconnect.
  expect(transport.streams).toHaveLength(1);
  transport.last.lose();
  await untilOpened(transport, 2);
  expect([...transport.last.wanted].filter((type) => type === "a" || type.startsWith("type-"))).toEqual([]);
  expect([transport.last.query("channels"), client.channels]).toEqual([null, []]);
  client.close();
  expect([vi.getTimerCount(), heard.mock.calls.length]).toEqual([0, 0]);
});

describe("after a loss", () => {
  it("the client leaves it to EventSource to come back, while that does", async () => {
    const { client, transport, told } = setUp();
    client.connect();
    transport.last.connect();
    transport.last.lose({ reconnects: true });
    await vi.advanceTimersByTimeAsync(20_000);
    transport.last.connect("c0", true);
    expect(transport.streams).toHaveLength(1);
    expect(told).toEqual(["connecting", "connected", "connecting", "connection-lost", "connected"]);
  });

  it("it comes back by itself with its cursor, later and later, up to thirty seconds", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999);
    const { client, transport } = setUp();
    client.connect();
    transport.last.connect();
    transport.last.event("a", "x", 1, "e1");
    const waits: number[] = [];
    for (let attempt = 0; attempt < 7; attempt += 1) {
      const lostAt = Date.now();
      transport.last.lose();
      await untilOpened(transport, attempt + 2);
      expect(transport.last.query("lastEventId")).toBe("e1");
      waits.push(Math.ceil((Date.now() - lostAt) / 1_000));
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 30, 30]);
    transport.last.connect();
    const lostAt = Date.now();
    transport.last.lose();
    await untilOpened(transport, 9);
    expect(Date.now() - lostAt).toBeLessThanOrEqual(1_010);
  });

  it("it waits at least as long as the server's retry says", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0);
    const { client, transport } = setUp();
    client.connect();
    transport.last.sink.retry(2_741);
    transport.last.lose();
    await vi.advanceTimersByTimeAsync(2_740);
    expect(transport.streams).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(transport.streams).toHaveLength(2);
  });

  it("a retry that nobody lives to see is no retry at once", async () => {
    const { client, transport } = setUp();
    client.connect();
    transport.last.sink.retry(Number("9".repeat(400)));
    transport.last.lose();
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(transport.streams).toHaveLength(1);
  });

  it("it gives up after maxRetries attempts in a row, and begins anew with connect", async () => {
    const { client, transport, told } = setUp({ maxRetries: 2 });
    client.connect();
    transport.last.connect();
    transport.last.lose({ reconnects: true });
    transport.last.lose({ reconnects: true });
    transport.last.lose({ reconnects: true });
    expect(told.slice(2)).toEqual([
      "connecting",
      "connection-lost",
      "connection-lost",
      "disconnected",
      "connection-lost",
      "retries-exhausted",
    ]);
    expect(transport.unclosed).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(120_000);
    expect(transport.streams).toHaveLength(1);
    client.connect();
    expect(transport.last.query("lastEventId")).toBe("c0");
  });

  it("it gives up at once what can't succeed later", async () => {
    const { client, transport, told } = setUp();
    client.connect();
    transport.last.lose({ final: true, status: 403 });
    await vi.advanceTimersByTimeAsync(120_000);
    expect(told).toEqual(["connecting", "disconnected", "connection-lost"]);
    expect(transport.streams).toHaveLength(1);
  });

  it("it tries again after 401 when it can prepare a new credential", async () => {
    const { client, transport } = setUp({ prepare: async () => undefined });
    client.connect();
    await untilOpened(transport, 1);
    transport.last.lose({ final: true, status: 401 });
    await untilOpened(transport, 2);
  });

  it("what the earlier stream still says is not heard", async () => {
    const { client, transport } = setUp();
    const heard = vi.fn();
    client.on("a", heard);
    client.connect();
    const earlier = transport.last;
    earlier.lose();
    await untilOpened(transport, 2);
    earlier.event("a", "x", 1, "e9");
    earlier.lose();
    expect(heard).not.toHaveBeenCalled();
    expect(client.lastEventId).toBe("");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(transport.streams).toHaveLength(2);
  });
});

describe("a connection that falls silent", () => {
  it("is made anew after two missed heartbeats, with the cursor", async () => {
    const { client, transport, told } = setUp();
    client.connect();
    transport.last.connect();
    await vi.advanceTimersByTimeAsync(80_000);
    transport.last.send("heartbeat", { timestamp: "" }, "h1");
    await vi.advanceTimersByTimeAsync(89_000);
    expect(transport.streams).toHaveLength(1);
    await untilOpened(transport, 2);
    expect(transport.last.query("lastEventId")).toBe("h1");
    expect(told.slice(2)).toEqual(["connecting", "heartbeat-missed"]);
    expect(transport.unclosed).toHaveLength(1);
  });

  it("is noticed also before it was ever open", async () => {
    const { client, transport } = setUp({ heartbeatTimeout: 5_000 });
    client.connect();
    await vi.advanceTimersByTimeAsync(7_000);
    expect(transport.streams.length).toBeGreaterThanOrEqual(2);
  });

  it("is left alone where no heartbeats are asked for", async () => {
    const { client, transport } = setUp({ heartbeatTimeout: 0 });
    client.connect();
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect([transport.streams.length, transport.last.query("heartbeat")]).toEqual([1, null]);
  });

  it("is left alone for as long as the application says, however long that is", async () => {
    const { client, transport } = setUp({ heartbeatTimeout: Number.POSITIVE_INFINITY });
    client.connect();
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(transport.streams).toHaveLength(1);
  });

  it("a cursor alone is a sign of life", async () => {
    const { client, transport } = setUp({ heartbeatTimeout: 5_000 });
    client.connect();
    for (let n = 0; n < 10; n += 1) {
      await vi.advanceTimersByTimeAsync(4_000);
      transport.last.sink.cursor(`k${n}`);
    }
    expect([transport.streams.length, client.lastEventId]).toEqual([1, "k9"]);
  });
});

describe("channels", () => {
  it("that change are one reconnect with the cursor, and the status stays", async () => {
    const { client, transport, told } = setUp({ channels: ["a"] });
    client.connect();
    transport.last.connect();
    transport.last.event("x", "a", 1, "e1");
    client.subscribe("b", "c");
    client.unsubscribe("a");
    const undo = client.subscribe("d");
    undo();
    undo();
    await untilOpened(transport, 2);
    expect([transport.last.query("channels"), transport.last.query("lastEventId")]).toEqual(["b,c", "e1"]);
    transport.last.connect("e1", true);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(told).toEqual(["connecting", "connected"]);
    expect([transport.streams.length, transport.unclosed.length]).toEqual([2, 1]);
  });

  it("that others want as well stay, and cost no reconnect", async () => {
    const { client, transport } = setUp();
    client.subscribe("a");
    client.connect();
    const undo = client.subscribe("a");
    undo();
    await vi.advanceTimersByTimeAsync(1_000);
    expect([transport.streams.length, client.channels]).toEqual([1, ["a"]]);
  });

  it("that change while the client waits don't make it come back sooner", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999);
    const { client, transport } = setUp();
    client.connect();
    transport.last.lose();
    client.subscribe("late");
    await vi.advanceTimersByTimeAsync(900);
    expect(transport.streams).toHaveLength(1);
    await untilOpened(transport, 2);
    expect(transport.last.query("channels")).toBe("late");
  });

  it("an id may come again on another channel: ids are of a subscription", async () => {
    const { client, transport } = setUp({ channels: ["a"] });
    const heard: unknown[] = [];
    client.on("x", (data) => heard.push(data));
    client.connect();
    transport.last.event("x", "a", 1, "e1");
    client.subscribe("b");
    await untilOpened(transport, 2);
    transport.last.event("x", "b", 2, "e1");
    expect(heard).toEqual([1, 2]);
  });
});

describe("channels of an open stream, with something that changes it,", () => {
  /** A client whose changes a test answers. */
  function setUpLive(options: FoghornOptions = {}) {
    const asked: StreamChange[] = [];
    const answers: { holds(): void; fails(): void }[] = [];
    const change = (change: StreamChange): Promise<void> => {
      asked.push(change);
      return new Promise((resolve, reject) => {
        answers.push({ holds: resolve, fails: () => reject(new Error("no")) });
      });
    };
    const stage = setUp({ channels: ["a"], change, ...options });
    stage.client.connect();
    return { ...stage, asked, answers };
  }

  const settle = () => vi.advanceTimersByTimeAsync(1_000);

  it("change without another connection, all of a moment at once", async () => {
    const { client, transport, told, asked, answers } = setUpLive();
    transport.last.connect();
    client.subscribe("b", "c");
    client.unsubscribe("a");
    await settle();
    answers[0]?.holds();
    await settle();
    const url = transport.last.request.url;
    const change = { url, clientId: "client-c0", channels: ["b", "c"], withCredentials: false };
    expect([asked, transport.streams.length, told]).toEqual([[change], 1, ["connecting", "connected"]]);
  });

  it("change one after the other: what is wanted meanwhile is asked for when the last holds", async () => {
    const { client, transport, asked, answers } = setUpLive();
    transport.last.connect();
    client.subscribe("b");
    await settle();
    client.subscribe("c");
    await settle();
    client.unsubscribe("b");
    await settle();
    expect(asked.map(({ channels }) => channels)).toEqual([["a", "b"]]);
    answers[0]?.holds();
    await settle();
    answers[1]?.holds();
    await settle();
    expect(asked.map(({ channels }) => channels)).toEqual([
      ["a", "b"],
      ["a", "c"],
    ]);
    expect(transport.streams).toHaveLength(1);
  });

  it("are had by another connection where a change fails", async () => {
    const { client, transport, answers, told } = setUpLive();
    transport.last.connect();
    client.subscribe("b");
    await settle();
    answers[0]?.fails();
    await settle();
    expect([transport.streams.length, transport.last.query("channels")]).toEqual([2, "a,b"]);
    expect(told).toEqual(["connecting", "connected"]);
  });

  it.each([true, false])(
    "survive a loss, also when the change isn't answered yet (answered: %s)",
    async (answered) => {
      const { client, transport, answers } = setUpLive();
      transport.last.connect();
      client.subscribe("b");
      await settle();
      if (answered) {
        answers[0]?.holds();
        await settle();
      }
      // EventSource would come back with the channels of its URL.
      transport.last.lose({ reconnects: true });
      answers[0]?.holds();
      // Before heartbeats are missed, which has it connect anew in any case.
      await vi.advanceTimersByTimeAsync(10_000);
      expect(transport.streams).toHaveLength(2);
      expect([transport.unclosed.length, transport.last.query("channels")]).toEqual([1, "a,b"]);
      // The next stream is as its URL says: there it is left to EventSource again.
      transport.last.connect("c1", true);
      transport.last.lose({ reconnects: true });
      await vi.advanceTimersByTimeAsync(60_000);
      expect(transport.streams).toHaveLength(2);
    },
  );

  it("are had by another connection while the open one isn't known to be there", async () => {
    const { client, transport, asked } = setUpLive();
    client.subscribe("b");
    await untilOpened(transport, 2);
    transport.last.connect();
    transport.last.lose({ reconnects: true });
    client.subscribe("c");
    await untilOpened(transport, 3);
    expect([asked, transport.last.query("channels")]).toEqual([[], "a,b,c"]);
  });

  it("are had by another connection where no heartbeat would say where the stream is", async () => {
    const { client, transport, asked } = setUpLive({ heartbeatTimeout: 0 });
    transport.last.connect();
    client.subscribe("b");
    await untilOpened(transport, 2);
    expect(asked).toEqual([]);
  });

  it("are left alone once the client is closed", async () => {
    const { client, transport, answers } = setUpLive();
    transport.last.connect();
    client.subscribe("b");
    await settle();
    client.close();
    answers[0]?.fails();
    await settle();
    expect([transport.streams.length, vi.getTimerCount()]).toEqual([1, 0]);
  });
});

describe("a credential that ends", () => {
  const expiring = { expires: new Date(30_000).toISOString() };

  beforeEach(() => {
    vi.setSystemTime(0);
  });

  it("is renewed before, by a new stream with the cursor, once for each end", async () => {
    const { client, transport, told } = setUp({}, true);
    client.connect();
    transport.last.connect();
    transport.last.send("stream-expiring", expiring);
    await untilOpened(transport, 2);
    expect(Date.now()).toBeLessThanOrEqual(15_100);
    expect(transport.last.query("lastEventId")).toBe("c0");
    transport.last.connect("c0", true);
    transport.last.send("stream-expiring", expiring);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(transport.streams).toHaveLength(2);
    expect(told).toEqual(["connecting", "connected"]);
  });

  it("is told and nothing more where nobody can renew it", async () => {
    const { client, transport } = setUp();
    const heard = vi.fn();
    client.on("stream-expiring", heard);
    client.connect();
    transport.last.connect();
    transport.last.send("stream-expiring", expiring);
    await vi.advanceTimersByTimeAsync(30_000);
    expect([transport.streams.length, heard.mock.calls.length]).toEqual([1, 1]);
  });
});

describe("a stream that is ousted by a newer one of its user", () => {
  it("is not opened again by itself, and goes on from its cursor when the application says so", async () => {
    const { client, transport, told } = setUp();
    client.connect();
    transport.last.connect();
    transport.last.send("stream-end", { reason: "ousted" }, "~");
    expect(transport.last.closed).toBe(true);
    await vi.advanceTimersByTimeAsync(600_000);
    expect(transport.streams).toHaveLength(1);
    expect(told).toEqual(["connecting", "connected", "disconnected", "ousted"]);
    client.connect();
    expect(transport.last.query("lastEventId")).toBe("c0");
  });
});

describe("when the network is back", () => {
  const listeners = new Map<string, () => void>();

  beforeEach(() => {
    vi.stubGlobal("addEventListener", (type: string, listener: () => void) => listeners.set(type, listener));
    vi.stubGlobal("removeEventListener", (type: string) => listeners.delete(type));
  });

  afterEach(() => {
    vi.unstubAllGlobals();
  });

  it("the client comes back within a second, however long it was to wait, or whatever it believes to have", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999);
    const { client, transport } = setUp();
    client.connect();
    for (let attempt = 0; attempt < 6; attempt += 1) {
      transport.last.lose();
      await untilOpened(transport, attempt + 2);
    }
    transport.last.lose();
    listeners.get("online")?.();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(transport.streams).toHaveLength(8);
    transport.last.connect();
    listeners.get("online")?.();
    await vi.advanceTimersByTimeAsync(1_000);
    expect([transport.streams.length, transport.unclosed.length]).toEqual([9, 1]);
    client.close();
    expect(listeners.size).toBe(0);
  });
});
