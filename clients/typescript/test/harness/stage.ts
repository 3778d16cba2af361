import type { Browser } from "playwright-core";
import { afterAll, beforeAll } from "vitest";
import { launch } from "./chromium.js";
import { Foghorn } from "./foghorn.js";
import { Pages } from "./pages.js";

/** What the tests of a file stand on, from before the first to after the last. */
export interface Stage {
  browser: Browser;
  pages: Pages;
  foghorn: Foghorn;
}

/** Has a browser, pages of these names, and a server that these may use, with these variables. */
export function stageOf(names: readonly string[], variables: Record<string, string> = {}): Stage {
  const stage = {} as Stage;
  beforeAll(async () => {
    [stage.browser, stage.pages] = await Promise.all([launch(), Pages.start(...names)]);
    stage.foghorn = await Foghorn.start({ ...variables, FOGHORN_HTTP_ORIGINS: stage.pages.origin });
  });
  afterAll(async () => {
    await stage.browser.close();
    stage.pages.stop();
    await stage.foghorn.remove();
  });
  return stage;
}
