import type { BrowserContext, Page } from "playwright-core";
import { afterEach, beforeEach, expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";

const stage = stageOf(["notifications"]);
let context: BrowserContext;
let tabs: [Page, Page];

beforeEach(async () => {
  await fetch(`${stage.foghorn.origin}/api/notifications?user=ann`, { method: "DELETE" });
  context = await stage.browser.newContext();
  tabs = [await context.newPage(), await context.newPage()];
  for (const tab of tabs) {
    await open(tab);
  }
});

afterEach(() => context.close());

async function open(tab: Page): Promise<void> {
  await tab.goto(`${stage.pages.origin}/notifications`);
  await tab.evaluate((origin) => window.renderBell(origin), stage.foghorn.origin);
  await expect.poll(async () => (await bell(tab)).isLoading).toBe(false);
}

async function bell(tab: Page): Promise<Record<string, unknown>> {
  return JSON.parse((await tab.locator("#bell").textContent()) ?? "{}");
}

async function notify(title: string): Promise<void> {
  const body = { userId: "ann", type: "info", title, message: "…", id: title, link: "/x" };
  const answer = await fetch(`${stage.foghorn.origin}/api/notifications`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  expect(answer.status).toBe(201);
}

const shows = (list: string, unreadCount: number) => ({ list, unreadCount, isLoading: false, error: null });

async function bothShow(list: string, unreadCount: number): Promise<void> {
  for (const tab of tabs) {
    await expect.poll(() => bell(tab)).toEqual(shows(list, unreadCount));
  }
}

it("two tabs of a user are in step: what comes, what is read in one of them, and how much is unread", async () => {
  await bothShow("", 0);
  await notify("a");
  await notify("b");
  await bothShow("b* a*", 2);
  await tabs[0].evaluate(() => window.mark("a"));
  await bothShow("b* a", 1);
  await notify("c");
  await bothShow("c* b* a", 2);
  await tabs[1].evaluate(() => window.markAll());
  await bothShow("c b a", 0);
  await fetch(`${stage.foghorn.origin}/api/notifications?user=ann`, { method: "DELETE" });
  await bothShow("", 0);
});

it("a tab that opens later, and one that was cut off, show what is there", async () => {
  await notify("a");
  await bothShow("a*", 1);
  await stage.foghorn.kill();
  await stage.foghorn.start();
  await notify("b");
  await bothShow("b* a*", 2);
  await tabs[1].reload();
  await open(tabs[1]);
  await bothShow("b* a*", 2);
});

it("what can't be marked is told, and the next thing that can is not held against it", async () => {
  await notify("a");
  await bothShow("a*", 1);
  const failed = await tabs[0].evaluate(() => window.mark("nothing").catch((error) => error.status));
  expect(failed).toBe(404);
  expect(await bell(tabs[0])).toMatchObject({ error: "refused", list: "a*" });
  await tabs[0].evaluate(() => window.mark("a"));
  await bothShow("a", 0);
});
