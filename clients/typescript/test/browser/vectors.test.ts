import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { launch } from "../harness/chromium.js";
import { Pages } from "../harness/pages.js";
import { bytesOf, vectors } from "../support/vectors.js";

let browser: Browser;
let pages: Pages;
let page: Page;

beforeAll(async () => {
  [browser, pages] = await Promise.all([launch(), Pages.start("blank")]);
  page = await browser.newPage();
  await page.goto(`${pages.origin}/blank`);
});

afterAll(async () => {
  await browser.close();
  pages.stop();
});

it.each(vectors.map((vector) => [vector.name, vector] as const))(
  "EventSource agrees: %s",
  async (_, vector) => {
    pages.answer("/vector", (_, response) => {
      response.writeHead(200, { "Content-Type": "text/event-stream" }).end(bytesOf(vector));
    });
    const types = [...new Set(["message", ...vector.events.map((event) => event.type)])];
    const events = await page.evaluate(
      (types) =>
        new Promise((resolve) => {
          const source = new EventSource("/vector");
          const heard: { type: string; data: string; id: string }[] = [];
          for (const type of types) {
            source.addEventListener(type, ({ data, lastEventId }) =>
              heard.push({ type, data, id: lastEventId }),
            );
          }
          source.onerror = () => {
            source.close();
            resolve(heard);
          };
        }),
      types,
    );
    expect(events).toEqual(vector.events);
  },
);
