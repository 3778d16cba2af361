import { mkdirSync } from "node:fs";
import type { Page, PageScreenshotOptions } from "playwright-core";

const WRONG = new WeakMap<Page, string[]>();

/** The page, from now on with what goes wrong in it, or is refused as something foreign. */
export function watched(page: Page): Page {
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

/** What went wrong in a watched page. */
export function wrongIn(page: Page): string[] {
  return WRONG.get(page) ?? [];
}

/** Keeps what is to be seen in a folder, in light and in dark, to be looked at. */
export async function keepIn(
  folder: string,
  page: Page,
  name: string,
  options: PageScreenshotOptions = {},
): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ ...options, path: `${folder}/${name}-${colorScheme}.png` });
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
