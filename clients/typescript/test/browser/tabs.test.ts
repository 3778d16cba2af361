import type { BrowserContext, Page } from "playwright-core";
import { afterEach, beforeEach, expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";
import type { Joining } from "./page/tabs.js";

const stage = stageOf(["tabs"]);
let context: BrowserContext;

beforeEach(async () => {
  context = await stage.browser.newContext();
});

afterEach(async () => {
  await context.close();
});

/** Opens a tab, and waits until it is connected. */
async function tab(joining: Omit<Joining, "url">): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${stage.pages.origin}/tabs`);
  await page.evaluate((joining) => window.join(joining), { url: stage.foghorn.url, ...joining });
  await expect.poll(() => page.evaluate(() => window.shared.status), { timeout: 20_000 }).toBe("connected");
  return page;
}

const heard = (page: Page) => page.evaluate(() => window.heard);
const untilHeard = (page: Page, expected: string[]) =>
  expect.poll(() => heard(page), { timeout: 20_000 }).toEqual(expected);
const leads = (page: Page) => page.evaluate(() => window.shared.isLeader);
const untilLeads = (page: Page) => expect.poll(() => leads(page)).toBe(true);
const numbers = (from: number, to: number, channel: string) =>
  Array.from({ length: to - from }, (_, n) => `tick ${channel} ${from + n}`);

async function publish(from: number, to: number, channel: string): Promise<void> {
  for (let n = from; n < to; n += 1) {
    await stage.foghorn.publish({ channel, event: "tick", data: n });
  }
}

it("pitfall 2, six connections: all tabs share one, and each hears what it wants", async () => {
  const first = await tab({ channels: ["a.*"], types: ["tick"] });
  const second = await tab({ channels: ["b"], types: ["tick", "tock"] });
  const third = await tab({ channels: [], types: [] });
  await stage.foghorn.publish({ channel: "a.1", event: "tick", data: 1 });
  await stage.foghorn.publish({ channel: "b", event: "tock", data: 2 });
  await untilHeard(first, ["tick a.1 1"]);
  await untilHeard(second, ["tock b 2"]);
  // Wanted later, by a tab that doesn't lead.
  await third.evaluate(() => {
    window.shared.on("late", (data) => window.heard.push(`late ${data}`));
    window.shared.subscribe("c");
  });
  await expect
    .poll(
      async () => {
        await stage.foghorn.publish({ channel: "c", event: "late", data: 3 });
        return (await heard(third))[0];
      },
      { timeout: 10_000 },
    )
    .toBe("late 3");
  expect(await Promise.all([first, second, third].map(leads))).toEqual([true, false, false]);
  const stats = await (await fetch(`${stage.foghorn.url}/stats`)).json();
  expect(stats.connectedClients).toBe(1);
});

it("when the leading tab closes, crashes or leaves, the next one goes on: nothing lost, nothing twice", async () => {
  const channel = "handed.over";
  const wants = { channels: [channel], types: ["tick"] };
  const tabs: Page[] = [];
  for (let n = 0; n < 4; n += 1) {
    tabs.push(await tab(wants));
  }
  const [first, second, third, last] = tabs as [Page, Page, Page, Page];
  const published = publish(0, 240, channel);
  const reaches = (page: Page, count: number) =>
    expect.poll(async () => (await heard(page)).length, { timeout: 20_000 }).toBeGreaterThan(count);

  await reaches(last, 20);
  expect(await leads(first)).toBe(true);
  await first.close();
  await untilLeads(second);
  await reaches(last, 80);
  const devtools = await context.newCDPSession(second);
  void devtools.send("Page.crash").catch(() => {});
  await untilLeads(third);
  await reaches(last, 140);
  await third.evaluate(() => window.shared.close());
  await untilLeads(last);

  await published;
  await untilHeard(last, numbers(0, 240, channel));
  const ofThird = await heard(third);
  expect(ofThird).toEqual(numbers(0, ofThird.length, channel));
});

it("what only one tab wants survives a hand-over to another", async () => {
  const first = await tab({ channels: [], types: [] });
  await tab({ channels: ["other"], types: ["tock"] });
  const third = await tab({ channels: ["mine"], types: ["tick"] });
  await publish(0, 10, "mine");
  const published = publish(10, 100, "mine");
  await first.close();
  await published;
  await untilHeard(third, numbers(0, 100, "mine"));
});

it("a tab that is too busy to say what it wants is told, and goes on", async () => {
  const first = await tab({ channels: [], types: [] });
  const second = await tab({ channels: [], types: [] });
  const busy = await tab({ channels: ["mine"], types: ["tick"] });
  await publish(0, 1, "mine");
  await untilHeard(busy, numbers(0, 1, "mine"));
  const isBusy = busy.evaluate(() => {
    const until = Date.now() + 3_000;
    while (Date.now() < until) {
      // On purpose.
    }
  });
  await first.close();
  await expect.poll(() => leads(second), { timeout: 5_000 }).toBe(true);
  await isBusy;
  await untilHeard(busy, [...numbers(0, 1, "mine"), 'stream-reset  {"reason":"tabs"}']);
  await expect
    .poll(async () => {
      await publish(7, 8, "mine");
      return (await heard(busy)).includes("tick mine 7");
    })
    .toBe(true);
});

it("what tabs want later is heard on the connection there is, and survives a hand-over", async () => {
  const opened: string[] = [];
  context.on("request", (request) => {
    const url = new URL(request.url());
    if (url.pathname === "/api/events") {
      opened.push(url.searchParams.get("channels") ?? "");
    }
  });
  const wants = { channels: ["early"], types: ["tick"], changes: true };
  const first = await tab(wants);
  const second = await tab(wants);
  const changed = context.waitForEvent("response", (response) => response.url().endsWith("/subscribe"));
  await second.evaluate(() => window.shared.subscribe("later"));
  expect((await changed).status()).toBe(200);
  await publish(0, 20, "later");
  await untilHeard(second, numbers(0, 20, "later"));
  expect([await heard(first), opened]).toEqual([[], ["early"]]);
  const published = publish(20, 60, "later");
  await first.close();
  await published;
  await untilHeard(second, numbers(0, 60, "later"));
  expect(opened).toEqual(["early", "early,later"]);
});

it("tabs of different names have connections of their own", async () => {
  const first = await tab({ channels: [], types: [], name: "one user" });
  const second = await tab({ channels: [], types: [], name: "another user" });
  expect([await leads(first), await leads(second)]).toEqual([true, true]);
});

it("where tabs can't find each other, each has a connection of its own", async () => {
  await context.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, "locks", { get: () => undefined });
  });
  const first = await tab({ channels: ["alone"], types: ["tick"] });
  const second = await tab({ channels: ["alone"], types: ["tick"] });
  expect([await leads(first), await leads(second)]).toEqual([true, true]);
  await publish(0, 3, "alone");
  await untilHeard(first, numbers(0, 3, "alone"));
  await first.evaluate(() => window.shared.subscribe("late"));
  await expect
    .poll(async () => {
      await publish(7, 8, "late");
      return (await heard(first)).includes("tick late 7");
    })
    .toBe(true);
});
