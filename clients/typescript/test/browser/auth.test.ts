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

it("a token or ticket that ends is renewed before, and nobody notices", async () => {
  const publisher = token("service", 60, { publish: [">"] });
  await page.evaluate((url) => {
    const wants = { url, channels: ["ticks"], types: ["tick"], mints: true };
    window.openClient("a", { ...wants, transport: "fetch" });
    window.openClient("native", wants);
  }, stage.foghorn.url);
  for (const name of ["a", "native"]) {
    await expect.poll(async () => (await heard(name)).statuses).toEqual(["connecting", "connected"]);
  }
  const expected: string[] = [];
  // Longer than the first token lives.
  for (const end = Date.now() + 6_500; Date.now() < end || minted < 6; ) {
    expected.push(`tick ticks ${expected.length}`);
    await stage.foghorn.publish({ channel: "ticks", event: "tick", data: expected.length - 1 }, publisher);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  for (const name of ["a", "native"]) {
    await expect.poll(async () => (await heard(name)).events).toEqual(expected);
    expect(await heard(name)).toMatchObject({ statuses: ["connecting", "connected"], errors: [] });
  }
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

it("pitfall 8, no Authorization header: with a ticket an EventSource comes back by its cookie after a crash, and the client with another ticket", async () => {
  const authorization = `Bearer ${token("ann", 60, { subscribe: ["ticks"] })}`;
  await page.evaluate(
    async ([url = "", Authorization = ""]) => {
      const answer = await fetch(`${url}/ticket`, { method: "POST", headers: { Authorization } });
      const { ticket } = await answer.json();
      const source = new EventSource(`${url}?channels=ticks&ticket=${ticket}`, { withCredentials: true });
      source.addEventListener("connected", ({ data }) =>
        window.heard.push(`recovered ${JSON.parse(data).recovered}`),
      );
      source.addEventListener("tick", ({ data }) => window.heard.push(data));
      window.openClient("d", { url, channels: ["ticks"], types: ["tick"], mints: true });
    },
    [stage.foghorn.url, authorization],
  );
  const native = () => page.evaluate(() => window.heard);
  const publisher = token("service", 60, { publish: [">"] });
  const publish = (data: number) =>
    stage.foghorn.publish({ channel: "ticks", event: "tick", data }, publisher);
  await expect.poll(native).toEqual(["recovered false"]);
  await expect.poll(async () => (await heard("d")).statuses).toEqual(["connecting", "connected"]);
  await publish(1);
  await expect.poll(native).toEqual(["recovered false", "1"]);
  await stage.foghorn.kill();
  await stage.foghorn.start();
  await publish(2);
  await expect.poll(native, { timeout: 10_000 }).toEqual(["recovered false", "1", "recovered true", "2"]);
  await expect
    .poll(async () => (await heard("d")).events, { timeout: 10_000 })
    .toEqual(["tick ticks 1", "tick ticks 2"]);
});
