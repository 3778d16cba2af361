import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type axe from "axe-core";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { launch } from "../../typescript/test/harness/chromium.js";
import { Demo } from "./demo.js";
import { closed, keep, tabOf, until, visitor } from "./stage.js";
import { Wire } from "./wire.js";

/** What looks for barriers in a page. */
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser: Browser;
let demo: Demo;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => {
  await browser.close();
});
beforeEach(async () => {
  demo = await Demo.start();
  context = await visitor(browser);
  page = await tab();
});
afterEach(async () => {
  expect(await closed(context)).toEqual([]);
  await demo.kill();
});

/** Another tab of the same user. */
async function tab(): Promise<Page> {
  const opened = await tabOf(context);
  await opened.goto(demo.url);
  await until(opened, ".live", /^Live$/);
  return opened;
}

/** Waits until the bell says so. */
async function untilUnread(of: Page, count: number): Promise<void> {
  await of.locator(`.bell[aria-label="Notifications: ${count} unread"]`).waitFor({ timeout: 15_000 });
}

/** Presses a button once it can be. */
async function press(of: Page, name: string): Promise<void> {
  await of.getByRole("button", { name, exact: true }).and(of.locator("[aria-disabled=false]")).click();
}

test("data flow into each part", async () => {
  await until(page, ".log li", /(info|warning|error)\s*\w+\s*\S+/);
  const first = await page.locator(".log li").first().textContent();
  await page.waitForFunction((before) => document.querySelector(".log li")?.textContent !== before, first);
  await untilUnread(page, 1);
  expect(await page.locator(".feed .unread").count()).toBe(1);
  await press(page, "Start a job");
  await until(page, "#job .percent", /^[1-9]\d* %$/);
  await until(page, "#job [role=status]", /Resizing pictures/);
  await keep(page, "demo");
});

test("a job's progress reaches 100 %, and a notification of its end raises the bell's count", async () => {
  await untilUnread(page, 1);
  await press(page, "Start a job");
  await until(page, "#job .percent", /^100 %$/);
  await until(page, "#job [role=status]", /^Done\.$/);
  await untilUnread(page, 2);
  await until(page, ".feed li:first-child", /Your thumbnails are ready/);
  // Whoever comes now sees how it ended.
  await until(await tab(), "#job .percent", /^100 %$/);
});

test("progress goes on where it was after the network was gone", async () => {
  const wire = await Wire.to(demo.url);
  await page.goto(wire.url);
  await until(page, ".live", /^Live$/);
  await press(page, "Start a job");
  await until(page, "#job .percent", /^[1-9]\d* %$/);
  wire.cut();
  await until(page, ".live", /^Connecting/);
  wire.mend();
  await until(page, ".live", /^Live$/);
  await until(page, "#tabs", /It came back, and went on where it was\./);
  await until(page, "#job .percent", /^100 %$/);
  wire.close();
});

test("what is read in one tab is read in the other at once", async () => {
  const other = await tab();
  await press(page, "Notify me");
  await untilUnread(page, 2);
  await untilUnread(other, 2);
  await other.locator(".feed .unread").first().getByRole("button").click();
  await untilUnread(page, 1);
  await page.locator(".feed .read").waitFor();
  expect(await page.locator(".feed .unread").count()).toBe(1);
  await press(page, "Mark all as read");
  await untilUnread(other, 0);
  await other.locator(".feed .unread").waitFor({ state: "detached" });
  expect(await other.evaluate(() => document.activeElement?.textContent)).toBe("Notifications");
});

test("two tabs share a connection, and the second goes on when the first is closed", async () => {
  await until(page, ".tab", /^This tab holds the connection\.$/);
  const other = await tab();
  await until(other, ".tab", /^Another tab holds the connection\.$/);
  await press(other, "Start a job");
  await until(other, "#job .percent", /^[1-9]\d* %$/);
  await page.close();
  await until(other, ".tab", /^This tab holds the connection\.$/);
  await until(other, "#tabs", /It came back, and went on where it was\./);
  await until(other, "#job .percent", /^100 %$/);
});

test("a server that was started anew knows the user again, and nothing is shown that is gone", async () => {
  await press(page, "Start a job");
  await until(page, "#job .percent", /^[1-9]\d* %$/);
  await demo.kill();
  await until(page, ".live", /^Connecting/);
  await keep(page, "away");
  await demo.start();
  await until(page, ".live", /^Live$/);
  await until(page, "#job [role=status]", /^No job yet\.$/);
  await untilUnread(page, 1);
  expect(await page.locator(".feed li").count()).toBe(1);
  await press(page, "Start a job");
  await until(page, "#job .percent", /^[1-9]\d* %$/);
});

test("everything can be done by keyboard", async () => {
  await untilUnread(page, 1);
  await page.keyboard.press("Tab");
  expect(await focused()).toBe("Skip to the notifications");
  const reached: (string | null)[] = [];
  for (let tabs = 0; tabs < 12; tabs += 1) {
    await page.keyboard.press("Tab");
    reached.push(await focused());
  }
  for (const name of ["Notify me", "Mark all as read", "Start a job", "Open a second tab", "Pause"]) {
    expect(reached).toContain(name);
  }
  expect(reached).toContain("Lines of the log");
  await page.getByRole("button", { name: "Start a job" }).focus();
  await page.keyboard.press("Enter");
  await until(page, "#job .percent", /^[1-9]\d* %$/);
  await page.locator(".feed .unread").first().getByRole("button").focus();
  await page.keyboard.press("Space");
  await untilUnread(page, 0);
  await page.getByRole("button", { name: "Pause" }).focus();
  await page.keyboard.press("Enter");
  await until(page, "#log button", /^Go on$/);
});

test("nothing stands in the way of those who don't see or hear it like others", async () => {
  await press(page, "Notify me");
  await untilUnread(page, 2);
  await page.locator(".feed .unread").first().getByRole("button").click();
  await page.locator(".feed .read").waitFor();
  await page.evaluate(AXE);
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    const { violations } = await page.evaluate(() => (window as unknown as { axe: typeof axe }).axe.run());
    expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
  }
});

test("it can be used on a phone", async () => {
  await page.setViewportSize({ width: 360, height: 780 });
  await press(page, "Notify me");
  await untilUnread(page, 2);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  expect(width).toBe(360);
  await keep(page, "phone", { fullPage: true });
});

test("it ends with Ctrl-C", async () => {
  expect(await demo.interrupt()).toBe(0);
});

/** What has the focus, by its name. */
function focused(): Promise<string | null> {
  return page.evaluate(() => {
    const element = document.activeElement;
    return element?.getAttribute("aria-label") ?? element?.textContent?.trim() ?? null;
  });
}
