import type { RawEvent } from "../transport.js";

/** Who hears what a parser finds. */
export interface ParserSink {
  event(event: RawEvent): void;
  /** A block without data had an `id`. */
  cursor(id: string): void;
  retry(milliseconds: number): void;
  /** A block was over the bound, and left out; the stream stands at `id` now. */
  tooLarge(id: string): void;
}

/**
 * Reads an event stream as the HTML standard has it ("parsing an event stream"), from text that may be cut
 * anywhere. A byte order mark at the beginning is the decoder's business: `TextDecoder` takes it away.
 *
 * No line, and no event's data, is kept beyond a bound of UTF-16 code units. What is longer is read past, and
 * told.
 */
export class EventStreamParser {
  readonly #bound: number;
  readonly #sink: ParserSink;
  /** The beginning of a line whose end has not come yet. */
  #partial = "";
  /** Whether the last line ended with a CR at the end of the text: an LF that comes next belongs to it. */
  #afterReturn = false;
  /** Whether the line whose end has not come is over the bound. */
  #lineTooLong = false;

  #type = "";
  #data: string | undefined;
  #id = "";
  #hasId = false;
  #tooLarge = false;

  constructor(bound: number, sink: ParserSink) {
    this.#bound = bound;
    this.#sink = sink;
  }

  /** Reads the next piece. */
  feed(text: string): void {
    let start = this.#afterReturn && text.startsWith("\n") ? 1 : 0;
    if (text !== "") {
      this.#afterReturn = false;
    }
    const lineEnd = /\r\n?|\n/g;
    lineEnd.lastIndex = start;
    for (let end = lineEnd.exec(text); end !== null; end = lineEnd.exec(text)) {
      this.#append(text.slice(start, end.index));
      this.#endLine();
      start = lineEnd.lastIndex;
      this.#afterReturn = end[0] === "\r" && start === text.length;
    }
    this.#append(text.slice(start));
  }

  #append(piece: string): void {
    if (this.#lineTooLong || this.#partial.length + piece.length > this.#bound) {
      this.#lineTooLong = true;
      this.#partial = "";
    } else {
      this.#partial += piece;
    }
  }

  #endLine(): void {
    const line = this.#partial;
    this.#partial = "";
    if (this.#lineTooLong) {
      this.#lineTooLong = false;
      this.#tooLarge = true;
    } else if (line === "") {
      this.#endBlock();
    } else {
      this.#field(line);
    }
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    const name = colon === -1 ? line : line.slice(0, colon);
    const rest = colon === -1 ? "" : line.slice(colon + 1);
    const value = rest.startsWith(" ") ? rest.slice(1) : rest;
    // A line that begins with a colon is a comment: its name is empty.
    switch (name) {
      case "event":
        this.#type = value;
        break;
      case "data":
        this.#addData(value);
        break;
      case "id":
        if (!value.includes("\0")) {
          this.#id = value;
          this.#hasId = true;
        }
        break;
      case "retry":
        if (/^[0-9]+$/.test(value)) {
          this.#sink.retry(Number(value));
        }
        break;
    }
  }

  #addData(value: string): void {
    if ((this.#data?.length ?? 0) + value.length > this.#bound) {
      this.#tooLarge = true;
      this.#data = undefined;
    } else if (!this.#tooLarge) {
      this.#data = this.#data === undefined ? value : `${this.#data}\n${value}`;
    }
  }

  #endBlock(): void {
    const [type, data, id] = [this.#type || "message", this.#data, this.#id];
    const [hadId, tooLarge] = [this.#hasId, this.#tooLarge];
    this.#type = "";
    this.#data = undefined;
    this.#hasId = false;
    this.#tooLarge = false;
    if (tooLarge) {
      this.#sink.tooLarge(id);
    } else if (data !== undefined) {
      this.#sink.event({ type, data, id });
    } else if (hadId) {
      this.#sink.cursor(id);
    }
  }
}
