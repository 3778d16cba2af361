import { fileURLToPath } from "node:url";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { keepIn, watched, wrongIn } from "../../typescript/test/harness/seen.js";

export { until } from "../../typescript/test/harness/seen.js";

const SCREENSHOTS = fileURLToPath(new URL("../../../target/console", import.meta.url));

/** A page that fails its test when something goes wrong in it, or something foreign is refused. */
export async function pageOf(browser: Browser, options: BrowserContextOptions = {}): Promise<Page> {
  const context = await browser.newContext({ viewport: { width: 1600, height: 1000 }, ...options });
  return watched(await context.newPage());
}

/** Closes it, and says what went wrong in it. */
export async function closed(page: Page): Promise<string[]> {
  await page.context().close();
  return wrongIn(page);
}

/** Keeps what is to be seen, in light and in dark. */
export const keep = (page: Page, name: string) => keepIn(SCREENSHOTS, page, name);
