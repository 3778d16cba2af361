import { describe, expect, it } from "vitest";
import { EventStreamParser } from "../../src/fetch/index.js";
import { bytesOf, vectors } from "../support/vectors.js";

interface Heard {
  events: { type: string; data: string; id: string }[];
  id: string;
  retry: number | null;
  tooLarge: string[];
}

function read(pieces: Iterable<Uint8Array>, bound = 1_000): Heard {
  const heard: Heard = { events: [], id: "", retry: null, tooLarge: [] };
  const parser = new EventStreamParser(bound, {
    event: (event) => {
      heard.events.push({ ...event });
      heard.id = event.id;
    },
    cursor: (id) => {
      heard.id = id;
    },
    retry: (milliseconds) => {
      heard.retry = milliseconds;
    },
    tooLarge: (id) => {
      heard.tooLarge.push(id);
      heard.id = id;
    },
  });
  const decoder = new TextDecoder();
  for (const piece of pieces) {
    parser.feed(decoder.decode(piece, { stream: true }));
  }
  return heard;
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe.each(vectors)("$name", (vector) => {
  const expected = { events: vector.events, id: vector.id, retry: vector.retry, tooLarge: [] };
  const whole = bytesOf(vector);

  it("in one piece", () => {
    expect(read([whole])).toEqual(expected);
  });

  it("byte by byte", () => {
    expect(read([...whole].map((byte) => Uint8Array.of(byte)))).toEqual(expected);
  });

  it("cut in two anywhere, and with nothing in between", () => {
    for (let at = 0; at <= whole.length; at += 1) {
      expect(read([whole.subarray(0, at), new Uint8Array(), whole.subarray(at)])).toEqual(expected);
    }
  });
});

describe("what is over the bound is left out and told, and the stream goes on", () => {
  it("a line that never ends takes no room", () => {
    const endless = Array.from({ length: 1_000 }, () => bytes("x".repeat(100)));
    const heard = read([bytes("id: 1\ndata: a\n\ndata: "), ...endless, bytes("\nid: 2\n\ndata: b\n\n")]);
    expect(heard.events).toEqual([
      { type: "message", data: "a", id: "1" },
      { type: "message", data: "b", id: "2" },
    ]);
    expect(heard.tooLarge).toEqual(["2"]);
  });

  it("data of many lines", () => {
    const heard = read([bytes(`event: big\nid: 1\n${"data: 0123456789\n".repeat(200)}\ndata: b\n\n`)]);
    expect(heard.events).toEqual([{ type: "message", data: "b", id: "1" }]);
    expect(heard.tooLarge).toEqual(["1"]);
  });

  it("up to the bound nothing is", () => {
    const line = "x".repeat(1_000 - "data: ".length);
    expect(read([bytes(`data: ${line}\n\n`)]).events).toEqual([{ type: "message", data: line, id: "" }]);
    expect(read([bytes(`data: ${line}x\n\n`)]).tooLarge).toEqual([""]);
  });
});
