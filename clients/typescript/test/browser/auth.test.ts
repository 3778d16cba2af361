import type { Page } from "playwright-core";
import { beforeAll, expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";
import { AUTHENTICATION, token } from "../harness/token.js";

const stage = stageOf(["client"], { ...AUTHENTICATION, FOGHORN_AUTH_EXPIRING_NOTICE: "4s" });
let page: Page;
let minted = 0;

beforeAll(async () => {
  page = await stage.browser.newPage();
  await page.exposeFunction("mint", () => {
    minted += 1;
    return token("ann", 6, { subscribe: ["ticks"] });
  });
  await page.goto(`${stage.pages.origin}/client`);
});

const heard = (name: string) =>
  page.evaluate((name) => {
    const { events, statuses, errors, problems } = window.records[name] ?? {};
    return { events, statuses, errors, problems };
  }, name);

it("a token that ends is renewed before, and nobody notices", async () => {
  const publisher = token("service", 60, { publish: [">"] });
  await page.evaluate((url) => {
    window.openClient("a", { url, channels: ["ticks"], types: ["tick"], transport: "fetch", mints: true });
  }, stage.foghorn.url);
  await expect.poll(async () => (await heard("a")).statuses).toEqual(["connecting", "connected"]);
  const expected: string[] = [];
  // Longer than the first token lives.
  for (const end = Date.now() + 6_500; Date.now() < end || minted < 3; ) {
    expected.push(`tick ticks ${expected.length}`);
    await stage.foghorn.publish({ channel: "ticks", event: "tick", data: expected.length - 1 }, publisher);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await expect.poll(async () => (await heard("a")).events).toEqual(expected);
  expect(await heard("a")).toMatchObject({ statuses: ["connecting", "connected"], errors: [] });
});

it("what the token doesn't allow is said, with the reason", async () => {
  await page.evaluate((url) => {
    window.openClient("b", { url, channels: ["secrets"], types: [], transport: "fetch", mints: true });
    window.openClient("c", { url, channels: ["ticks"], types: [], transport: "fetch" });
  }, stage.foghorn.url);
  const refused = { statuses: ["connecting", "disconnected"], errors: ["refused"] };
  await expect
    .poll(() => heard("b"))
    .toMatchObject({ ...refused, problems: [expect.stringContaining("access-denied")] });
  await expect
    .poll(() => heard("c"))
    .toMatchObject({ ...refused, problems: [expect.stringContaining("unauthenticated")] });
});
