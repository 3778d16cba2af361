import { readFileSync } from "node:fs";

/** What a reader of event streams makes of bytes; see the file. */
export interface Vector {
  readonly name: string;
  readonly input?: string;
  readonly hex?: string;
  readonly events: readonly { type: string; data: string; id: string }[];
  readonly id: string;
  readonly retry: number | null;
}

const file = new URL("../../../../tests/vectors/event-stream.json", import.meta.url);

export const vectors: readonly Vector[] = JSON.parse(readFileSync(file, "utf8")).vectors;

export function bytesOf(vector: Vector): Uint8Array {
  return vector.hex === undefined
    ? new TextEncoder().encode(vector.input)
    : Uint8Array.from(Buffer.from(vector.hex, "hex"));
}
