/**
 * Events that their publisher has compressed.
 *
 * @module
 */
import { FoghornError } from "../error.js";

/** The longest text of an event that is kept, as the `fetch` transport has it. */
const EVENT_LENGTH = 4 * 1024 * 1024;

/** How to decompress. */
export interface DecompressOptions {
  /**
   * The longest text that an event may come to, in UTF-16 code units; 4 Mi by default. What comes to more is left
   * out and told to `onError` (`event-too-large`): a few bytes can say gigabytes.
   */
  maxEventLength?: number;
}

/**
 * What the option `decode` takes to unpack events whose data are `{"compressed":true,"payload":"…"}`: JSON or text,
 * compressed with gzip, in base64. With `false` the payload is the text itself. All other events stay as they are.
 *
 * ```ts
 * const client = new FoghornClient({ channels: ["reports.*"], decode: decompress() });
 * ```
 */
export function decompress({
  maxEventLength = EVENT_LENGTH,
}: DecompressOptions = {}): (text: string) => string | Promise<string> {
  return (text) => {
    const packed = read(text);
    if (packed === undefined) {
      return text;
    }
    return packed.compressed ? gunzip(packed.payload, maxEventLength) : packed.payload;
  };
}

interface Packed {
  readonly compressed: boolean;
  readonly payload: string;
}

/** Most events aren't: they cost a look at their beginning. */
const BEGINNING = /^\s*\{\s*"(compressed|payload)"\s*:/;

function read(text: string): Packed | undefined {
  if (!BEGINNING.test(text)) {
    return undefined;
  }
  try {
    const value = JSON.parse(text) as Partial<Record<keyof Packed, unknown>>;
    const isPacked = typeof value.compressed === "boolean" && typeof value.payload === "string";
    return isPacked && Object.keys(value).length === 2 ? (value as Packed) : undefined;
  } catch {
    return undefined;
  }
}

async function gunzip(payload: string, bound: number): Promise<string> {
  if (typeof DecompressionStream === "undefined") {
    throw new FoghornError("unsupported", "there is no DecompressionStream here");
  }
  const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    text += decoder.decode(piece.value, { stream: true });
    if (text.length > bound) {
      void reader.cancel();
      throw new FoghornError("event-too-large", `an event was longer than ${bound}, and left out`);
    }
  }
  return text + decoder.decode();
}
