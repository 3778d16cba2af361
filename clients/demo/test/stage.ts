import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type {
  Browser,
  BrowserContext,
  BrowserContextOptions,
  Page,
  PageScreenshotOptions,
} from "playwright-core";

/** Where what was seen is kept, to be looked at. */
const SCREENSHOTS = fileURLToPath(new URL("../../../target/demo", import.meta.url));

/** A browser of its own, with cookies of its own. */
export function visitor(browser: Browser, options: BrowserContextOptions = {}): Promise<BrowserContext> {
  return browser.newContext({ viewport: { width: 1200, height: 1000 }, ...options });
}

/** A tab of it, which knows what went wrong in it, or was refused as something foreign. */
export async function tabOf(context: BrowserContext): Promise<Page> {
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

/** Closes all tabs, and says what went wrong in them. */
export async function closed(context: BrowserContext): Promise<string[]> {
  const wrong = context.pages().flatMap((page) => WRONG.get(page) ?? []);
  await context.close();
  return wrong;
}

/** Keeps what is to be seen, in light and in dark. */
export async function keep(page: Page, name: string, options: PageScreenshotOptions = {}): Promise<void> {
  mkdirSync(SCREENSHOTS, { recursive: true });
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ ...options, path: `${SCREENSHOTS}/${name}-${colorScheme}.png` });
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
