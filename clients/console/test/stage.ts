import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";

/** Where what was seen is kept, to be looked at. */
const SCREENSHOTS = fileURLToPath(new URL("../../../target/console", import.meta.url));

/** A page that fails its test when something goes wrong in it, or something foreign is refused. */
export async function pageOf(browser: Browser, options: BrowserContextOptions = {}): Promise<Page> {
  const context = await browser.newContext({ viewport: { width: 1600, height: 1000 }, ...options });
  const page = await context.newPage();
  const wrong: string[] = [];
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (message) => {
    // What the network does is a test's own doing.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
      wrong.push(message.text());
    }
  });
  WRONG.set(page, wrong);
  return page;
}

const WRONG = new WeakMap<Page, string[]>();

/** Closes it, and says what went wrong in it. */
export async function closed(page: Page): Promise<string[]> {
  await page.context().close();
  return WRONG.get(page) ?? [];
}

/** Keeps what is to be seen, in light and in dark. */
export async function keep(page: Page, name: string): Promise<void> {
  mkdirSync(SCREENSHOTS, { recursive: true });
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: `${SCREENSHOTS}/${name}-${colorScheme}.png` });
  }
}

/** Waits until the text of an element is so. */
export async function until(page: Page, selector: string, is: RegExp): Promise<void> {
  await page
    .locator(selector)
    .filter({ hasText: is })
    .first()
    .waitFor({ timeout: 15_000 })
    .catch(async () => {
      const text = await page.locator("body").textContent();
      throw new Error(`${selector} is not ${is}; the page says:\n${text}`);
    });
}
