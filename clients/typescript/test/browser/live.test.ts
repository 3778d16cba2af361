import type { Page } from "playwright-core";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";
import type { Opening } from "./page/client.js";

// Several shards: a stream comes into some of them only by a change, and its first cursor knows nothing of those.
const stage = stageOf(["client"], { FOGHORN_SHARDS: "4" });
let page: Page;
/** What was asked of the server: the streams' channels, and `subscribe` with its status. */
let asked: string[];

beforeEach(async () => {
  page = await stage.browser.newPage();
  asked = [];
  page.on("response", (response) => {
    const url = new URL(response.url());
    if (url.pathname === "/api/events") {
      asked.push(url.searchParams.get("channels") ?? "");
    } else if (url.pathname === "/api/events/subscribe" && response.request().method() === "POST") {
      asked.push(`subscribe ${response.status()}`);
    }
  });
  await page.goto(`${stage.pages.origin}/client`);
});

afterEach(async () => {
  await page.close();
});

const heard = () => page.evaluate(() => window.records.a?.events ?? []);
const recovered = () => page.evaluate(() => window.records.a?.recovered ?? []);
const numbers = (count: number, channel: string) =>
  Array.from({ length: count }, (_, n) => `tick ${channel} ${n}`);

async function publish(channel: string, count: number, from = 0): Promise<void> {
  for (let n = from; n < count; n += 1) {
    await stage.foghorn.publish({ channel, event: "tick", data: n });
  }
}

async function open(opening: Omit<Opening, "url" | "types"> & { url?: string }): Promise<void> {
  await page.evaluate(([opening]) => window.openClient("a", opening), [
    { url: stage.foghorn.url, types: ["tick"], changes: true, ...opening },
  ] as const);
  await expect.poll(recovered).toEqual([false]);
}

/** Asks for other channels, and waits until the server has said that it holds. */
async function change(wanted: string[], unwanted: string[] = []): Promise<void> {
  const changes = asked.length;
  await page.evaluate(
    ([wanted, unwanted]) => {
      window.records.a?.client.subscribe(...wanted);
      window.records.a?.client.unsubscribe(...unwanted);
    },
    [wanted, unwanted] as const,
  );
  await expect.poll(() => asked.slice(changes)).toEqual(["subscribe 200"]);
}

describe.each([{}, { transport: "fetch" }] as const)("with %j", (transport) => {
  const name = `live.${transport.transport ?? "native"}`;

  it("channels change on the connection there is, under load: nothing lost, nothing twice", async () => {
    const [kept, left, come] = [`${name}.kept`, `${name}.left`, `${name}.come`];
    await open({ channels: [kept, left], ...transport });
    await publish(left, 1);
    const published = publish(kept, 120);
    await change([come], [left]);
    await publish(come, 20);
    await publish(left, 2, 1);
    await published;
    await publish(kept, 121, 120);
    await expect.poll(heard).toContain(`tick ${kept} 120`);
    const of = async (channel: string) => (await heard()).filter((event) => event.includes(channel));
    await expect.poll(() => of(come)).toEqual(numbers(20, come));
    expect([await of(kept), await of(left)]).toEqual([numbers(121, kept), numbers(1, left)]);
    expect([asked, await recovered()]).toEqual([[`${kept},${left}`, "subscribe 200"], [false]]);
  });

  it("what was asked for later survives a loss, with all that came meanwhile", async () => {
    const channels = Array.from({ length: 12 }, (_, n) => `${name}.quiet.${n}`);
    await open({ channels: [`${name}.first`], ...transport });
    await change(channels);
    // Nothing has come on them yet: where they are only the change has said.
    await page.context().setOffline(true);
    // Or the open connection would outlive that.
    await stage.foghorn.kill();
    await stage.foghorn.start();
    for (const channel of channels) {
      await publish(channel, 1);
    }
    await page.context().setOffline(false);
    await expect.poll(async () => (await heard()).sort()).toEqual(channels.map((c) => `tick ${c} 0`).sort());
    expect(await recovered()).toEqual([false, true]);
  });

  it("a server that is killed doesn't take back what was asked for later", async () => {
    const [first, later] = [`${name}.before`, `${name}.after`];
    await open({ channels: [first], ...transport });
    await change([later]);
    await stage.foghorn.kill();
    await stage.foghorn.start();
    // EventSource alone would come back with the channels of its URL.
    await expect.poll(recovered, { timeout: 10_000 }).toEqual([false, true]);
    await publish(later, 1);
    await expect.poll(heard).toEqual(numbers(1, later));
  });

  it("a change that the server refuses is a reconnect", async () => {
    stage.pages.answer("/elsewhere", (_, response) => {
      response.writeHead(307, { Location: `${stage.foghorn.url}?envelope=1&channels=${name}.b` }).end();
    });
    await open({ url: `${stage.pages.origin}/elsewhere`, channels: [], ...transport });
    await page.evaluate((channel) => void window.records.a?.client.subscribe(channel), `${name}.b`);
    await expect.poll(recovered).toHaveLength(2);
    await publish(`${name}.b`, 1);
    await expect.poll(heard).toEqual(numbers(1, `${name}.b`));
  });
});
