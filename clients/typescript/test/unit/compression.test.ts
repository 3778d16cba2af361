import { gzipSync } from "node:zlib";
import { describe, expect, it, vi } from "vitest";
import { decompress } from "../../src/compression/index.js";
import { FoghornClient, type FoghornOptions } from "../../src/index.js";
import { FakeTransport } from "../support/fake-transport.js";

const packed = (text: string) => ({ compressed: true, payload: gzipSync(text).toString("base64") });

function setUp(options: FoghornOptions = {}) {
  const transport = new FakeTransport();
  const heard: unknown[] = [];
  const client = new FoghornClient({
    url: "http://server.test/api/events",
    transport,
    decode: decompress({ maxEventLength: 100_000 }),
    onError: (error) => heard.push(error.code),
    ...options,
  });
  client.on("a", (data) => heard.push(data));
  client.on("stream-live", () => heard.push("live"));
  client.connect();
  return { client, transport, heard };
}

describe("decompress", () => {
  it("gives what a publisher compressed with zlib, and all else as it is", async () => {
    const unpack = decompress();
    const text = JSON.stringify({ rows: Array.from({ length: 1_000 }, (_, n) => `żółw ${n} 🐢`) });
    expect(await unpack(JSON.stringify(packed(text)))).toBe(text);
    // As Python writes it, and in another order.
    const { payload } = packed("text");
    expect(await unpack(`{"payload": "${payload}",\n "compressed": true}`)).toBe("text");
    expect(unpack('{"compressed":false,"payload":"[1,2]"}')).toBe("[1,2]");
    for (const other of [
      "text",
      '{"amount":990}',
      '{"compressed":true}',
      '{"compressed":"true","payload":"x"}',
      '{"compressed":true,"payload":"x","more":1}',
      '{"compressed":true,"payload":',
    ]) {
      expect(unpack(other)).toBe(other);
    }
  });

  it("keeps no more than it is allowed, however little says it", async () => {
    const bomb = JSON.stringify(packed("0".repeat(50_000_000)));
    expect(bomb.length).toBeLessThan(100_000);
    await expect(decompress()(bomb)).rejects.toMatchObject({ code: "event-too-large" });
  });

  it("says where the platform can't", async () => {
    vi.stubGlobal("DecompressionStream", undefined);
    await expect(decompress()(JSON.stringify(packed("x")))).rejects.toMatchObject({ code: "unsupported" });
    vi.unstubAllGlobals();
  });
});

describe("a client that decodes", () => {
  it("gives events in their order, also those that need no time, and what the stream says of itself", async () => {
    const { client, transport, heard } = setUp();
    transport.last.event("a", "x", "first");
    expect(heard).toEqual(["first"]);
    transport.last.event("a", "x", packed('{"n":2}'), "e2");
    transport.last.event("a", "x", 3, "e3");
    transport.last.send("stream-live", { replayed: 3 }, "e3");
    transport.last.sink.cursor("k1");
    // Nothing of it was given yet, so the cursor stays: whoever comes back now is owed all of it.
    expect([heard.length, client.lastEventId]).toEqual([1, "e1"]);
    await expect.poll(() => heard).toEqual(["first", { n: 2 }, 3, "live"]);
    await expect.poll(() => client.lastEventId).toBe("k1");
    // Once nothing waits any more, an event is given as soon as it comes.
    await new Promise((resolve) => setTimeout(resolve));
    transport.last.event("a", "x", "at once", "e4");
    expect(heard.at(-1)).toBe("at once");
  });

  it("unpacks the items of a batch", async () => {
    const { transport, heard } = setUp({ batch: 100 });
    const item = (id: string, data: unknown) => ({
      id,
      event: "a",
      channel: "x",
      data: typeof data === "string" ? data : JSON.stringify(data),
    });
    transport.last.send("batch", [item("e1", packed("1")), item("e2", "2"), item("e3", packed("3"))], "e3");
    await expect.poll(() => heard).toEqual([1, 2, 3]);
  });

  it("leaves out and tells what can't be decoded, and goes on behind it", async () => {
    const { client, transport, heard } = setUp();
    transport.last.event("a", "x", { compressed: true, payload: "no base64!" }, "e1");
    transport.last.event("a", "x", { compressed: true, payload: btoa("no gzip") }, "e2");
    transport.last.event("a", "x", packed("0".repeat(200_000)), "e3");
    transport.last.event("a", "x", "next", "e4");
    await expect.poll(() => heard).toEqual(["decode-failed", "decode-failed", "event-too-large", "next"]);
    expect(client.lastEventId).toBe("e4");
  });

  it("gives nothing of a stream that it has left, and is given it again", async () => {
    const { client, transport, heard } = setUp();
    transport.last.event("a", "x", packed('"old"'), "e1");
    client.close();
    client.connect();
    expect(transport.last.query("lastEventId")).toBe(null);
    transport.last.event("a", "x", packed('"again"'), "e1");
    await expect.poll(() => heard).toEqual(["again"]);
  });
});
