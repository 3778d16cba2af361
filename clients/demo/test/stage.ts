import { fileURLToPath } from "node:url";
import type {
  Browser,
  BrowserContext,
  BrowserContextOptions,
  Page,
  PageScreenshotOptions,
} from "playwright-core";
import { keepIn, watched, wrongIn } from "../../typescript/test/harness/seen.js";

export { until } from "../../typescript/test/harness/seen.js";

const SCREENSHOTS = fileURLToPath(new URL("../../../target/demo", import.meta.url));

/** A browser of its own, with cookies of its own. */
export function visitor(browser: Browser, options: BrowserContextOptions = {}): Promise<BrowserContext> {
  return browser.newContext({ viewport: { width: 1200, height: 1000 }, ...options });
}

/** A tab of it, which knows what went wrong in it, or was refused as something foreign. */
export async function tabOf(context: BrowserContext): Promise<Page> {
  return watched(await context.newPage());
}

/** Closes all tabs, and says what went wrong in them. */
export async function closed(context: BrowserContext): Promise<string[]> {
  const wrong = context.pages().flatMap(wrongIn);
  await context.close();
  return wrong;
}

/** Keeps what is to be seen, in light and in dark. */
export const keep = (page: Page, name: string, options?: PageScreenshotOptions) =>
  keepIn(SCREENSHOTS, page, name, options);
