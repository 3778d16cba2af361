import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { launch } from "../../typescript/test/harness/chromium.js";
import { Foghorn } from "../../typescript/test/harness/foghorn.js";
import { AUTHENTICATION, token } from "../../typescript/test/harness/token.js";
import { closed, keep, pageOf, until } from "./stage.js";

const HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>';

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => {
  await browser.close();
});

/** Streams that listen until the test is over. */
class Listeners {
  readonly #aborter = new AbortController();

  async open(url: string, bearer?: string): Promise<void> {
    const headers: Record<string, string> = bearer === undefined ? {} : { Authorization: `Bearer ${bearer}` };
    const response = await fetch(url, { headers, signal: this.#aborter.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    const readOn = async (): Promise<void> => {
      while (reader !== undefined && !(await reader.read()).done) {}
    };
    readOn().catch(() => {});
  }

  close(): void {
    this.#aborter.abort();
  }
}

describe("in standalone without keys", () => {
  let foghorn: Foghorn;
  let page: Page;
  let listeners: Listeners;
  let publishing: NodeJS.Timeout | undefined;

  beforeAll(async () => {
    foghorn = await Foghorn.start({
      FOGHORN_DASHBOARD_ALERTS:
        '[{ name = "too many listeners", metric = "connections", above = 20 }, { name = "slow", metric = "latency_p99", above = 5 }]',
    });
  });
  afterAll(async () => {
    await foghorn.remove();
  });
  beforeEach(async () => {
    page = await pageOf(browser);
    listeners = new Listeners();
  });
  afterEach(async () => {
    clearInterval(publishing);
    listeners.close();
    expect(await closed(page)).toEqual([]);
  });

  async function open(at = "overview"): Promise<void> {
    await page.goto(`${foghorn.origin}/console#/${at}`);
    await until(page, ".live", /^Live$/);
  }

  /** Has events flow. */
  function publish(): void {
    let number = 0;
    publishing = setInterval(() => {
      for (const channel of ["orders.eu.42", "orders.us.7", "orders.eu.42", "prices.XETR.SAP"]) {
        number += 1;
        void foghorn.publish({ channel, event: "placed", data: { number, total: 12.5 } });
      }
    }, 100);
  }

  test("opens at once and shows how the cluster is, live", async () => {
    for (let stream = 0; stream < 3; stream += 1) {
      await listeners.open(`${foghorn.url}?channels=orders.%3E`);
    }
    publish();
    await open();
    // The listeners, and the console's own stream.
    await until(page, ".tile", /Connections\s*4/);
    await until(page, ".tile", /Events \/ s\s*[1-9]/);
    await until(page, ".tile", /Deliveries \/ s\s*[1-9]/);
    await until(page, ".tile", /Latency p99\s*[\d.]+ (µs|ms)/);
    await until(page, ".tile", /Error rate\s*0 %/);
    expect(await page.locator(".alerts").textContent()).toBe("No alerts");
    await page.waitForFunction(
      () => (document.querySelector(".chart .line")?.getAttribute("d")?.length ?? 0) > 200,
    );
    const label = await page.locator(".chart svg").first().getAttribute("aria-label");
    expect(label).toMatch(/^Connections: open 4, slow 0$/);
    await keep(page, "overview");
  });

  test("alerts begin and cease by the rules of the configuration", async () => {
    const many = new Listeners();
    for (let stream = 0; stream < 21; stream += 1) {
      await many.open(`${foghorn.url}?channels=a`);
    }
    await open("instances");
    await until(page, ".alarm", /^1 alert$/);
    await page.locator(".alarm").click();
    await until(page, ".alerts .firing", /too many listeners connections is 22, above 20/);
    await keep(page, "alert");
    many.close();
    await until(page, ".alerts .resolved", /too many listeners is over/);
    expect(await page.locator(".alarm").isVisible()).toBe(false);
  });

  test("shows every process and how it is", async () => {
    await open("instances");
    await until(page, "tbody tr", /ready\s*standalone/);
    await until(page, "tbody tr", /[\d.]+ MiB/);
    await keep(page, "instances");
  });

  test("shows the busiest channels and who hears them", async () => {
    await listeners.open(`${foghorn.url}?channels=orders.%3E`);
    publish();
    await open("channels");
    await until(page, "tbody tr:first-child", /orders\.eu\.42\s*[\d.]+\s*[\d.]+ \w+\s*1/);
    await keep(page, "channels");
    await page.getByRole("link", { name: "orders.eu.42" }).click();
    await until(page, "h1", /^Live tail$/);
    await until(page, ".events li", /orders\.eu\.42\s*placed/);
  });

  test("tails a channel, and takes what comes for text", async () => {
    await open("tail");
    await page.getByLabel("Channels and patterns").fill("tail.>");
    await page.keyboard.press("Enter");
    await until(page, "main [role=status]", /^Listening$/);
    await foghorn.publish({ channel: "tail.a", event: "greeting", data: { hello: "world" } });
    await foghorn.publish({ channel: "tail.b", event: HOSTILE, data: HOSTILE });
    await until(page, ".events li", /tail\.a\s*greeting\s*Trace\s*\{"hello":"world"\}/);
    await until(page, ".events li", /tail\.b\s*<img/);
    expect(await page.locator(".events img, .events script").count()).toBe(0);
    expect(await page.title()).toBe("Live tail · Foghorn");
    await page.getByLabel("Only events with").fill("HELLO");
    await page.waitForFunction(() => document.querySelectorAll(".events li:not([hidden])").length === 1);
    await page.getByLabel("Only events with").fill("");
    await page.getByRole("button", { name: "Pause" }).click();
    await foghorn.publish({ channel: "tail.a", data: "while it was paused" });
    await until(page, "main [role=status]", /^Paused: 1 more$/);
    await page.getByRole("button", { name: "Go on" }).click();
    await until(page, ".events li:first-child", /while it was paused/);
    await keep(page, "tail");
  });

  test("publishes what is filled in", async () => {
    await open("publish");
    await page.getByLabel("Channel").fill("orders.eu.43");
    await page.getByLabel("Type").fill("placed");
    await page.getByLabel("Id").fill("order-43");
    await page.getByLabel("Data").fill('{"total": 7}');
    await page.getByRole("button", { name: "Publish" }).click();
    await until(page, "form [role=status]", /^Published as order-43: see it in the live tail/);
    await page.getByRole("button", { name: "Publish" }).click();
    await until(page, "form [role=status]", /^Known already as order-43/);
    await keep(page, "publish");
    await page.getByLabel("Channel").fill("orders.*");
    await page.getByRole("button", { name: "Publish" }).click();
    await until(page, "form [role=status]", /channel/);
    await page.getByLabel("Channel").fill("orders.eu.43");
    await page.getByRole("button", { name: "Publish" }).click();
    await page.getByRole("link", { name: "see it in the live tail" }).click();
    await until(page, ".events li", /orders\.eu\.43\s*placed\s*Trace\s*\{"total":7\}/);
  });

  test("is used by keyboard alone", async () => {
    await open();
    await page.keyboard.press("Tab");
    expect(await focused(page)).toBe("Skip to the page");
    await page.keyboard.press("Enter");
    expect(await focused(page)).toBe("Overview");
    const seen: string[] = [];
    await page.locator(".brand").focus();
    for (let step = 0; step < 8; step += 1) {
      await page.keyboard.press("Tab");
      seen.push(await focused(page));
    }
    const names = ["Overview", "Instances", "Channels", "Live tail", "Connections", "Why not?", "Publish"];
    expect(seen).toEqual([...names, "◐"]);
    const outlined = await page.evaluate(
      () => getComputedStyle(document.activeElement as Element).outlineStyle,
    );
    expect(outlined).toBe("solid");
    // From system's to dark, to light, and back.
    const ground = (): Promise<string> =>
      page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const before = await ground();
    await page.keyboard.press("Enter");
    const dark = await ground();
    expect(dark).not.toBe(before);
    await page.reload();
    await until(page, ".live", /^Live$/);
    expect(await ground()).toBe(dark);
    await page.getByRole("link", { name: "Publish" }).focus();
    await page.keyboard.press("Enter");
    await until(page, "main h1", /^Publish$/);
    expect(await focused(page)).toBe("Publish");
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("publish-channel");
    expect(await page.getByRole("link", { name: "Publish" }).getAttribute("aria-current")).toBe("page");
  });

  test("has a name for everything that can be used, and fits a narrow window", async () => {
    for (const name of ["overview", "instances", "channels", "tail", "connections", "trace", "publish"]) {
      await open(name);
      await page.setViewportSize({ width: 400, height: 800 });
      const unnamed = await page.evaluate(() =>
        [
          ...document.querySelectorAll<HTMLInputElement>(
            "a, button, input, textarea, [role=img], [role=region]",
          ),
        ]
          .filter((element) => !element.labels?.length && !element.ariaLabel && !element.textContent?.trim())
          .map((element) => element.outerHTML),
      );
      expect(unnamed).toEqual([]);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(400);
      if (name === "overview") {
        await keep(page, "narrow");
      }
    }
  });

  test("says when it is cut off, and comes back by itself", async () => {
    await open();
    await foghorn.kill();
    await until(page, ".live", /Connecting|Not connected/);
    await foghorn.start();
    await until(page, ".live", /^Live$/);
    await until(page, ".tile", /Connections\s*1/);
  });
});

describe("where there are keys", () => {
  let foghorn: Foghorn;
  let page: Page;
  let listeners: Listeners;
  const all = { subscribe: [">"], publish: [">"] };

  beforeAll(async () => {
    foghorn = await Foghorn.start(AUTHENTICATION);
  });
  afterAll(async () => {
    await foghorn.remove();
  });
  beforeEach(async () => {
    page = await pageOf(browser);
    listeners = new Listeners();
  });
  afterEach(async () => {
    listeners.close();
    expect(await closed(page)).toEqual([]);
  });

  async function enter(at: string, seconds = 3_600): Promise<void> {
    await page.goto(`${foghorn.origin}/console#/${at}`);
    await page.getByLabel("Token").fill(token("root", seconds, { ...all, role: "admin" }));
    await page.keyboard.press("Enter");
    await until(page, ".live", /^Live$/);
  }

  test("asks for a token of the role admin, and keeps it for the tab alone", async () => {
    await page.goto(`${foghorn.origin}/console`);
    await page.getByLabel("Token").waitFor();
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("login-token");
    await keep(page, "login");
    await page.getByLabel("Token").fill("no token");
    await page.keyboard.press("Enter");
    await until(page, "[role=alert]", /credential|token/i);
    await page.getByLabel("Token").fill(token("ann", 3_600, all));
    await page.keyboard.press("Enter");
    await until(page, "[role=alert]", /Access denied.*admin/);
    await enter("overview");
    await page.reload();
    await until(page, ".live", /^Live$/);
    const requests: string[] = [];
    page.on("request", (request) => requests.push(request.url()));
    await page.getByRole("link", { name: "Channels" }).click();
    await until(page, "h1", /Busiest channels/);
    expect(requests.filter((url) => url.includes("token") || url.includes("eyJ"))).toEqual([]);
    const other = await page.context().newPage();
    await other.goto(`${foghorn.origin}/console`);
    await other.getByLabel("Token").waitFor();
    await page.getByRole("button", { name: "Leave" }).click();
    await page.getByLabel("Token").waitFor();
    expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
  });

  test("asks again when the token has ended", async () => {
    await enter("overview", 4);
    await page.getByLabel("Token").waitFor({ timeout: 15_000 });
  });

  test("finds the connections of a user and closes one", async () => {
    // Another token each: one is refused with the connection that is closed.
    const ann = (seconds: number): string => token("ann", seconds, all);
    await listeners.open(`${foghorn.url}?channels=orders.%3E,prices.*&events=placed`, ann(3_600));
    await listeners.open(`${foghorn.url}?channels=news`, ann(3_601));
    await enter("connections");
    await page.getByLabel("User", { exact: true }).fill("ann");
    await page.keyboard.press("Enter");
    await until(page, "[role=status]", /^2 connections\.$/);
    await until(page, "tbody tr", /broadcast, user\.ann, .*orders\.>.*\(placed\)\s*level/);
    await keep(page, "connections");
    const row = page.locator("tbody tr").filter({ hasText: "news" });
    await row.getByRole("button").click();
    await row.getByText("Really close?").click();
    await until(page, "main [role=status]", /was closed/);
    await page.getByRole("button", { name: "Find" }).click();
    await until(page, "[role=status]", /^1 connection\.$/);
  });

  test("says why a user didn't get an event", async () => {
    const ann = token("ann", 3_600, all);
    await listeners.open(`${foghorn.url}?channels=orders.%3E`, ann);
    await listeners.open(`${foghorn.url}?channels=orders.1&events=paid`, ann);
    await listeners.open(`${foghorn.url}?channels=news`, ann);
    await enter("publish");
    await page.getByLabel("Channel").fill("orders.1");
    await page.getByLabel("Type").fill("placed");
    await page.getByLabel("Id").fill("order-1");
    await page.getByRole("button", { name: "Publish" }).click();
    await until(page, "form [role=status]", /^Published/);
    await page.getByRole("link", { name: "Why not?" }).click();
    await page.getByLabel("Channel").fill("orders.1");
    await page.getByLabel("Event", { exact: true }).fill("order-1");
    await page.getByLabel("User", { exact: true }).fill("ann");
    await page.keyboard.press("Enter");
    await until(page, ".steps li.yes", /delivered/);
    await until(page, "td.delivered", /Written to its socket/);
    await until(page, "td.filtered", /Filtered/);
    await until(page, "td.not-subscribed", /Doesn't hear/);
    await keep(page, "trace");
    await page.getByLabel("User", { exact: true }).fill("bob");
    await page.keyboard.press("Enter");
    await until(page, ".steps li.no", /bob has no connection now/);
    await page.getByLabel("Event", { exact: true }).fill("order-2");
    await page.keyboard.press("Enter");
    await until(page, ".steps li.unknown", /never published/);
  });
});

/** What is called what is focused. */
function focused(page: Page): Promise<string> {
  return page.evaluate(() => document.activeElement?.textContent ?? "");
}
