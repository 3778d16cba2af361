import type { Page } from "playwright-core";
import { expect, it } from "vitest";
import { stageOf } from "../harness/stage.js";
import { AUTHENTICATION, token } from "../harness/token.js";

const stage = stageOf(["client"], {
  ...AUTHENTICATION,
  FOGHORN_GATEWAY_SUBJECT_STREAMS: "1",
  FOGHORN_GATEWAY_SUBJECT_STREAMS_BEYOND: "close-oldest",
});

/** A tab of one and the same user, and with what its streams were answered. */
async function tab(): Promise<{ page: Page; answers: number[] }> {
  const page = await stage.browser.newPage();
  const answers: number[] = [];
  page.on("response", (response) => {
    if (new URL(response.url()).pathname === "/api/events") {
      answers.push(response.status());
    }
  });
  await page.exposeFunction("mint", () => token("ann", 60, { subscribe: ["ticks"] }));
  await page.goto(`${stage.pages.origin}/client`);
  return { page, answers };
}

const publish = (data: number) =>
  stage.foghorn.publish({ channel: "ticks", event: "tick", data }, token("service", 60, { publish: [">"] }));

it("of two tabs with close-oldest the newer one stays: an EventSource that is ousted is answered 204, and gives up", async () => {
  const [first, second] = [await tab(), await tab()];
  const open = ({ page }: { page: Page }) =>
    page.evaluate(async (url) => {
      const headers = { Authorization: `Bearer ${await window.mint()}` };
      const { ticket } = await (await fetch(`${url}/ticket`, { method: "POST", headers })).json();
      const source = new EventSource(`${url}?channels=ticks&ticket=${ticket}`, { withCredentials: true });
      for (const type of ["connected", "tick", "stream-end"]) {
        source.addEventListener(type, ({ data }) =>
          window.heard.push(type === "tick" ? data : (JSON.parse(data).reason ?? type)),
        );
      }
      source.onerror = () => window.heard.push(source.readyState === EventSource.CLOSED ? "closed" : "lost");
    }, stage.foghorn.url);
  const heard = ({ page }: { page: Page }) => page.evaluate(() => window.heard);
  await open(first);
  await expect.poll(() => heard(first)).toEqual(["connected"]);
  await open(second);
  await expect
    .poll(() => heard(first), { timeout: 10_000 })
    .toEqual(["connected", "ousted", "lost", "closed"]);
  expect(first.answers).toEqual([200, 204]);
  // By now a first tab that ousted the second would have done so, and that one would have come back.
  await publish(1);
  await expect.poll(() => heard(second)).toEqual(["connected", "1"]);
  expect([first.answers, second.answers]).toEqual([[200, 204], [200]]);
  await Promise.all([first.page.close(), second.page.close()]);
});

it("so it is with the client, which says why", async () => {
  const [first, second] = [await tab(), await tab()];
  const open = ({ page }: { page: Page }) =>
    page.evaluate((url) => {
      window.openClient("a", { url, channels: ["ticks"], types: ["tick"], mints: true });
    }, stage.foghorn.url);
  const says = ({ page }: { page: Page }) =>
    page.evaluate(() => {
      const { statuses, errors } = window.records.a ?? {};
      return { statuses, errors };
    });
  await open(first);
  await expect.poll(() => says(first)).toEqual({ statuses: ["connecting", "connected"], errors: [] });
  await open(second);
  await expect
    .poll(() => says(first), { timeout: 10_000 })
    .toEqual({ statuses: ["connecting", "connected", "disconnected"], errors: ["ousted"] });
  await publish(2);
  await expect
    .poll(() => second.page.evaluate(() => window.records.a?.events), { timeout: 10_000 })
    .toEqual(["tick ticks 2"]);
  expect(await says(second)).toEqual({ statuses: ["connecting", "connected"], errors: [] });
  expect(second.answers).toEqual([200]);
});
