import type { Page } from "playwright-core";
import { afterEach, beforeEach, expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";

const stage = stageOf(["concurrent"]);
let page: Page;
let problems: string[];

beforeEach(async () => {
  page = await stage.browser.newPage();
  problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  await page.goto(`${stage.pages.origin}/concurrent`);
  await page.evaluate((url) => window.renderApp(url), stage.foghorn.url);
  await expect.poll(() => page.evaluate(() => window.recording.status)).toBe("connected");
  expect(await subscribed()).toEqual(THRICE("one"));
});

afterEach(async () => {
  // Whatever was subscribed to once too often would stay.
  await page.evaluate(() => window.moves.hide());
  await expect.poll(() => page.evaluate(() => window.recording.channels)).toEqual([]);
  await page.close();
  expect(problems).toEqual([]);
});

/** Each of the feed's three hooks subscribes for itself. */
const THRICE = (channel: string) => [channel, channel, channel];
const feed = () => page.locator("#feed").textContent();
const subscribed = () => page.evaluate(() => window.recording.subscribed);
const channels = () => page.evaluate(() => window.recording.channels);
const renders = (channel: string) =>
  page.evaluate((channel) => window.rendered.filter((each) => each === channel).length, channel);
const publish = (channel: string, data: number) => stage.foghorn.publish({ channel, event: "tick", data });

/** Each hook hears this, once. */
async function hears(channel: string, n: number): Promise<void> {
  await expect
    .poll(async () => {
      await publish(channel, n);
      return feed();
    })
    .toBe(`${channel} ${n} ${n}`);
  await page.evaluate(() => window.handled.splice(0));
  await publish(channel, n + 1);
  await expect.poll(feed).toBe(`${channel} ${n + 1} ${n + 1}`);
  expect(await page.evaluate(() => window.handled)).toEqual([`${channel} ${n + 1}`]);
}

it("a render that is interrupted and begun again subscribes once, when it is committed", async () => {
  await page.evaluate(() => {
    window.interruptions = 3;
    window.moves.move("slow");
  });
  await expect.poll(feed).toBe("slow null null");
  expect(await renders("slow")).toBeGreaterThan(1);
  expect([await subscribed(), await channels()]).toEqual([[...THRICE("one"), ...THRICE("slow")], ["slow"]]);
  await hears("slow", 1);
});

it("a transition that is suspended and given up never subscribes, and what is shown goes on", async () => {
  await page.evaluate(() => window.moves.move("gated.never"));
  await expect.poll(() => renders("gated.never")).toBeGreaterThan(0);
  // Rendered anew with each event, while the other one waits.
  await hears("one", 1);
  await page.evaluate(() => window.moves.move("two"));
  await expect.poll(feed).toBe("two null null");
  expect([await subscribed(), await channels()]).toEqual([[...THRICE("one"), ...THRICE("two")], ["two"]]);
  await hears("two", 1);
});

it("a transition that is suspended subscribes once, when it can be shown", async () => {
  await page.evaluate(() => window.moves.move("gated.late"));
  await expect.poll(() => renders("gated.late")).toBeGreaterThan(0);
  expect(await channels()).toEqual(["one"]);
  await page.evaluate(() => window.moves.open("gated.late"));
  await expect.poll(feed).toBe("gated.late null null");
  expect([await subscribed(), await channels()]).toEqual([
    [...THRICE("one"), ...THRICE("gated.late")],
    ["gated.late"],
  ]);
  await hears("gated.late", 1);
});

it("what is hidden by a fallback goes on listening, to what was last shown, until it is shown again", async () => {
  await page.evaluate(() => window.moves.jump("gated.hidden"));
  await expect.poll(() => page.locator("#waiting").textContent()).toBe("waiting");
  expect(await channels()).toEqual(["one"]);
  await publish("one", 7);
  await expect.poll(() => page.evaluate(() => window.handled)).toEqual(["one 7"]);
  await page.evaluate(() => window.moves.open("gated.hidden"));
  await expect.poll(feed).toBe("gated.hidden null null");
  expect([await subscribed(), await channels()]).toEqual([
    [...THRICE("one"), ...THRICE("gated.hidden")],
    ["gated.hidden"],
  ]);
  await hears("gated.hidden", 1);
});
