/**
 * Other channels for an open stream, without a new connection.
 *
 * @module
 */
import { FoghornError } from "../error.js";
import type { HeaderList } from "../fetch/index.js";
import { refusal } from "../fetch/refusal.js";
import type { StreamChange } from "../options.js";

/** How long an answer is waited for, in milliseconds. */
const ANSWER_MS = 10_000;

/** How changes are asked for. */
export interface LiveChangesOptions {
  /**
   * Headers of every request, such as `Authorization`. A stream that was opened with a token is changed with one of
   * the same subject, and lasts as long as that one from then on. A function is called before each request. Cookies
   * are sent as they are for streams.
   */
  headers?: HeaderList | (() => HeaderList | Promise<HeaderList>);
  /** What to use instead of the platform's own `fetch`. */
  fetch?: typeof fetch;
  /** Told why a change could not be had. The client connects anew then, which loses nothing. */
  onRefused?: (error: FoghornError) => void;
}

/**
 * Asks the server to change streams, for the client's option `change`.
 *
 * ```ts
 * new FoghornClient({ channels: ["orders.1"], change: liveChanges() });
 * ```
 */
export function liveChanges(options: LiveChangesOptions = {}): (change: StreamChange) => Promise<void> {
  return async (change) => {
    try {
      await ask(change, options);
    } catch (cause) {
      const error =
        cause instanceof FoghornError
          ? cause
          : new FoghornError("connection-lost", "a change could not be asked for", { cause });
      options.onRefused?.(error);
      throw error;
    }
  };
}

async function ask(
  { url, clientId, channels, withCredentials }: StreamChange,
  options: LiveChangesOptions,
): Promise<void> {
  const address = new URL(url);
  address.pathname = `${address.pathname.replace(/\/$/, "")}/subscribe`;
  address.search = "";
  const given = typeof options.headers === "function" ? await options.headers() : options.headers;
  const headers = new Headers(given);
  headers.set("Content-Type", "application/json");
  const answer = await (options.fetch ?? fetch)(address, {
    method: "POST",
    headers,
    body: JSON.stringify({ clientId, channels }),
    credentials: withCredentials ? "include" : "same-origin",
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (answer.status !== 200) {
    throw await refusal(answer);
  }
  await answer.body?.cancel();
}
