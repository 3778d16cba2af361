import { gzipSync } from "node:zlib";
import type { Page } from "playwright-core";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";
import type { Opening } from "./page/client.js";

const stage = stageOf(["client", "worker"], {
  FOGHORN_GATEWAY_KEEP_ALIVE: "2s",
  FOGHORN_GATEWAY_KEEP_ALIVE_IDLE: "2s",
  FOGHORN_POLICY: '[{ pattern = "policy.packed", compress_data_from = 1024 }]',
});
let page: Page;

beforeEach(async () => {
  page = await stage.browser.newPage();
  await page.goto(`${stage.pages.origin}/client`);
});

afterEach(async () => {
  await page.close();
});

/** Opens a client on the page, and waits until it is connected. */
async function open(name: string, opening: Omit<Opening, "url"> & { url?: string }): Promise<void> {
  await page.evaluate(([name, opening]) => window.openClient(name, opening), [
    name,
    { url: stage.foghorn.url, ...opening },
  ] as const);
  await until(name, "connected");
}

const status = (name: string) => page.evaluate((name) => window.records[name]?.client.status, name);
const until = (name: string, wanted: string) =>
  expect.poll(() => status(name), { timeout: 20_000 }).toBe(wanted);
const heard = (name: string) => page.evaluate((name) => window.records[name]?.events ?? [], name);
const errors = (name: string) => page.evaluate((name) => window.records[name]?.errors ?? [], name);
const recovered = (name: string) => page.evaluate((name) => window.records[name]?.recovered ?? [], name);
const untilHeard = (name: string, expected: string[]) =>
  expect.poll(() => heard(name), { timeout: 20_000 }).toEqual(expected);

const numbers = (count: number, channel: string): string[] =>
  Array.from({ length: count }, (_, n) => `tick ${channel} ${n}`);

/** Publishes numbers one after the other; `meanwhile` is called when half of them are. */
async function publishNumbers(count: number, channel: string, meanwhile: () => Promise<void>): Promise<void> {
  let half: Promise<void> | undefined;
  for (let n = 0; n < count; n += 1) {
    await stage.foghorn.publish({ channel, event: "tick", data: n });
    if (n === Math.floor(count / 2)) {
      half = meanwhile();
    }
  }
  await half;
}

it("an EventSource of the platform hears typed events of patterns, by channel", async () => {
  await open("a", { channels: ["shop.*", "news"], types: ["paid", "message", "error", "open"] });
  await stage.foghorn.publish({ channel: "shop.eu", event: "paid", data: { amount: 990 } });
  await stage.foghorn.publish({ channel: "news", data: "text\nof two lines" });
  // Names that EventSource has events of its own for.
  await stage.foghorn.publish({ channel: "news", event: "error", data: 1 });
  await stage.foghorn.publish({ channel: "news", event: "open", data: 2 });
  await stage.foghorn.publish({ channel: "elsewhere", event: "paid", data: 0 });
  await stage.foghorn.publish({ channel: "shop.us", event: "paid", data: null });
  await untilHeard("a", [
    'paid shop.eu {"amount":990}',
    'message news "text\\nof two lines"',
    "error news 1",
    "open news 2",
    "paid shop.us null",
  ]);
  expect([await errors("a"), await recovered("a")]).toEqual([[], [false]]);
});

it("a worker can listen with both transports", async () => {
  await page.evaluate((url) => {
    const worker = new Worker("/script/worker.js", { type: "module" });
    worker.onmessage = ({ data }) => window.heard.push(data);
    worker.postMessage(url);
  }, stage.foghorn.url);
  const said = () => page.evaluate(() => [...window.heard].sort());
  await expect.poll(said).toEqual(["fetch connected", "native connected"]);
  await stage.foghorn.publish({ channel: "worker", data: 7 });
  await expect.poll(said).toEqual(["fetch 7", "fetch connected", "native 7", "native connected"]);
});

it("batches are unpacked", async () => {
  await open("a", { channels: ["batch.*"], types: ["tick"], batch: 50 });
  await publishNumbers(20, "batch.1", async () => {});
  await untilHeard("a", numbers(20, "batch.1"));
});

it.each([{}, { batch: 50 }])("what a publisher has compressed is unpacked, in order (%j)", async (how) => {
  await open("a", { channels: ["packed"], types: ["tick"], decompresses: true, ...how });
  const rows = (n: number) => JSON.stringify({ n, rows: "x".repeat(n % 2 === 0 ? 20_000 : 10) });
  for (let n = 0; n < 20; n += 1) {
    // As the guide does it: only what is large.
    const text = rows(n);
    const compressed = text.length > 1_024;
    const payload = compressed ? gzipSync(text).toString("base64") : text;
    await stage.foghorn.publish({ channel: "packed", event: "tick", data: { compressed, payload } });
  }
  await untilHeard(
    "a",
    Array.from({ length: 20 }, (_, n) => `tick packed ${rows(n)}`),
  );
  expect(await errors("a")).toEqual([]);
});

it.each([{}, { batch: 50 }, { transport: "fetch" as const }])(
  "what a policy has compressed is unpacked, in order (%j)",
  async (how) => {
    const events = { channels: ["policy.packed"], types: ["tick"] };
    await open("raw", { ...events, ...how });
    await open("a", { ...events, decompresses: true, ...how });
    const rows = (n: number) => JSON.stringify({ n, rows: "é".repeat(n % 2 === 0 ? 20_000 : 10) });
    for (let n = 0; n < 20; n += 1) {
      await stage.foghorn.publish({ channel: "policy.packed", event: "tick", data: JSON.parse(rows(n)) });
    }
    await untilHeard(
      "a",
      Array.from({ length: 20 }, (_, n) => `tick policy.packed ${rows(n)}`),
    );
    expect((await heard("raw"))[0]).toMatch(/^tick policy\.packed \{"compressed":true,"payload":"H4sI/);
    expect(await errors("a")).toEqual([]);
  },
);

it("missed heartbeats tell that the server hangs, and a quiet stream isn't taken for dead", async () => {
  const kinds = { native: {}, fetch: { transport: "fetch" } } as const;
  for (const [name, transport] of Object.entries(kinds)) {
    await open(name, { channels: ["hang"], types: ["tick"], heartbeatTimeout: 4_000, ...transport });
  }
  // Heartbeats come every two seconds.
  await new Promise((resolve) => setTimeout(resolve, 4_500));
  for (const name of Object.keys(kinds)) {
    expect([await errors(name), await status(name)]).toEqual([[], "connected"]);
  }
  stage.foghorn.hang();
  for (const name of Object.keys(kinds)) {
    await expect.poll(() => errors(name), { timeout: 10_000 }).toContain("heartbeat-missed");
  }
  stage.foghorn.comeTo();
  await publishNumbers(3, "hang", async () => {});
  for (const name of Object.keys(kinds)) {
    await untilHeard(name, numbers(3, "hang"));
  }
});

describe.each(["native", "fetch"] as const)("%s", (kind) => {
  const transport = kind === "fetch" ? ({ transport: "fetch" } as const) : {};

  it("pitfall 10, reconnecting that nobody tries: resumes where it was when the server is killed, nothing lost, nothing twice", async () => {
    const channel = `killed.${kind}`;
    await open("a", { channels: [channel], types: ["tick"], ...transport });
    await publishNumbers(120, channel, async () => {
      await stage.foghorn.kill();
      await stage.foghorn.start();
    });
    await untilHeard("a", numbers(120, channel));
    const resumed = await recovered("a");
    expect([resumed.length > 1, new Set(resumed.slice(1))]).toEqual([true, new Set([true])]);
  });

  it("comes back when the browser was offline: nothing lost, nothing twice", async () => {
    const channel = `offline.${kind}`;
    await open("a", { channels: [channel], types: ["tick"], ...transport });
    await stage.foghorn.publish({ channel, event: "tick", data: 0 });
    await untilHeard("a", numbers(1, channel));
    await page.context().setOffline(true);
    for (let n = 1; n < 10; n += 1) {
      await stage.foghorn.publish({ channel, event: "tick", data: n });
    }
    await page.context().setOffline(false);
    await untilHeard("a", numbers(10, channel));
    await expect.poll(() => recovered("a")).toEqual([false, true]);
  });

  it("hears other channels from one event to the next, when they change under load", async () => {
    const [first, second] = [`first.${kind}`, `second.${kind}`];
    await open("a", { channels: [first], types: ["tick"], ...transport });
    await publishNumbers(40, first, async () => {
      await page.evaluate((channel) => void window.records.a?.client.subscribe(channel), second);
    });
    await expect.poll(() => recovered("a")).toEqual([false, true]);
    await stage.foghorn.publish({ channel: second, event: "tick", data: 0 });
    await untilHeard("a", [...numbers(40, first), ...numbers(1, second)]);
  });

  it("comes back by itself after a status that ends an EventSource for good", async () => {
    let refusals = 2;
    stage.pages.answer("/flaky", (_, response) => {
      refusals -= 1;
      if (refusals >= 0) {
        response.writeHead(503).end();
      } else {
        response.writeHead(307, { Location: `${stage.foghorn.url}?envelope=1` }).end();
      }
    });
    await open("a", { url: `${stage.pages.origin}/flaky`, types: [], ...transport });
    expect(await errors("a")).toEqual(["refused", "refused"]);
  });

  it("gives up after maxRetries", async () => {
    stage.pages.answer("/refused", (_, response) => response.writeHead(503).end());
    await page.evaluate(([opening]) => window.openClient("a", opening), [
      { url: `${stage.pages.origin}/refused`, types: [], maxRetries: 2, ...transport },
    ] as const);
    await expect.poll(() => errors("a"), { timeout: 10_000 }).toContain("retries-exhausted");
    expect([await status("a"), await errors("a")]).toEqual([
      "disconnected",
      ["refused", "refused", "refused", "retries-exhausted"],
    ]);
  });
});
