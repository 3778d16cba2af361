import type { Page } from "playwright-core";
import { afterEach, beforeEach, expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";

const stage = stageOf(["react"]);
let page: Page;
let requests: string[];
let problems: string[];

beforeEach(async () => {
  page = await stage.browser.newPage();
  requests = [];
  problems = [];
  page.on("request", (request) => {
    if (request.url().startsWith(stage.foghorn.url)) {
      requests.push(new URL(request.url()).searchParams.get("channels") ?? "");
    }
  });
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") {
      problems.push(message.text());
    }
  });
  await page.goto(`${stage.pages.origin}/react`);
  await page.evaluate((url) => window.renderApp(url), stage.foghorn.url);
  await expect.poll(() => text("status")).toBe("connected true");
});

afterEach(async () => {
  await page.close();
  expect(problems).toEqual([]);
});

const text = (id: string) => page.locator(`#${id}`).textContent();
const feed = async () => JSON.parse((await text("feed")) ?? "{}");
const handled = () => page.evaluate(() => window.handled);
const connections = async () => (await (await fetch(`${stage.foghorn.url}/stats`)).json()).connectedClients;

it("under StrictMode all components share one connection, and handlers get each event once", async () => {
  expect(requests).toEqual(["one,silent"]);
  expect(await connections()).toBe(1);
  // Although StrictMode has taken the provider away and put it back.
  expect(await page.evaluate(() => window.statuses)).toEqual(["connecting", "connected"]);
  for (let n = 1; n <= 5; n += 1) {
    await stage.foghorn.publish({ channel: "one", event: "tick", data: n });
  }
  await stage.foghorn.publish({ channel: "one", event: "tock", data: "x" });
  await expect.poll(feed).toEqual({
    mount: 0,
    data: 5,
    last: ["one 5", "one 4", "one 3"],
    readyState: 1,
    other: "x",
    map: { tick: 5, tock: "x" },
  });
  expect(await handled()).toEqual([1, 2, 3, 4, 5]);
});

it("a fast remount costs no reconnect, and another channel one", async () => {
  await page.evaluate(() => window.controls.remount());
  await expect.poll(async () => (await feed()).mount).toBe(1);
  await stage.foghorn.publish({ channel: "one", event: "tick", data: 1 });
  await expect.poll(async () => (await feed()).data).toBe(1);
  await page.evaluate(() => window.controls.listenTo("two"));
  await expect.poll(() => requests).toEqual(["one,silent", "silent,two"]);
  await stage.foghorn.publish({ channel: "two", event: "tick", data: 2 });
  await expect.poll(async () => (await feed()).last).toEqual(["two 2"]);
  // Nobody was told of that: the client was connected all the while.
  expect([await text("status"), await handled(), await connections()]).toEqual(["connected true", [1, 2], 1]);
});

it("close ends listening of a hook, and taking the provider away ends the connection", async () => {
  await page.locator("#close").click();
  await expect.poll(async () => (await feed()).readyState).toBe(2);
  await stage.foghorn.publish({ channel: "one", event: "tick", data: 1 });
  await expect.poll(async () => (await feed()).map).toEqual({ tick: 1 });
  expect(await feed()).toMatchObject({ data: null, last: [] });
  await page.evaluate(() => window.controls.hide());
  await expect.poll(connections).toBe(0);
});

it("a provider connects a shared client that it is given, and leaves it to the application to close it", async () => {
  const context = await stage.browser.newContext();
  const tabs = [await context.newPage(), await context.newPage()] as const;
  for (const tab of tabs) {
    await tab.goto(`${stage.pages.origin}/react`);
    await tab.evaluate((url) => window.renderApp(url, true), stage.foghorn.url);
    await expect.poll(() => tab.locator("#status").textContent()).toBe("connected true");
  }
  // One of both tabs, and the other page's own.
  expect(await connections()).toBe(2);
  await stage.foghorn.publish({ channel: "one", event: "tick", data: 7 });
  for (const tab of tabs) {
    const shown = async () => JSON.parse((await tab.locator("#feed").textContent()) ?? "{}").data;
    await expect.poll(shown).toBe(7);
  }
  await tabs[0].evaluate(() => window.controls.hide());
  await expect.poll(() => tabs[0].locator("#feed").count()).toBe(0);
  await stage.foghorn.publish({ channel: "one", event: "tick", data: 8 });
  await expect.poll(() => tabs[1].evaluate(() => window.handled)).toEqual([7, 8]);
  const leads = (tab: Page) => tab.evaluate(() => [window.shared.status, window.shared.isLeader]);
  expect([await leads(tabs[0]), await leads(tabs[1])]).toEqual([
    ["connected", true],
    ["connected", false],
  ]);
  expect(await connections()).toBe(2);
  await context.close();
});
