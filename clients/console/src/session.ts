/** Who looks: a token, if the server needs one. It is kept for this tab alone, and sent in no URL. */

const KEY = "foghorn-console-token";

/** The server refused, or can't answer. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

let token = sessionStorage.getItem(KEY) ?? "";
const refused = new Set<() => void>();

export const session = {
  get hasToken(): boolean {
    return token !== "";
  },

  /** Takes a token, or forgets the one there is. */
  use(given: string): void {
    token = given.trim();
    if (token === "") {
      sessionStorage.removeItem(KEY);
    } else {
      sessionStorage.setItem(KEY, token);
    }
  },

  headers(): Record<string, string> {
    return token === "" ? {} : { Authorization: `Bearer ${token}` };
  },

  /** Calls this when the server doesn't know who asks any more. */
  onRefused(listener: () => void): void {
    refused.add(listener);
  },
};

/** Asks the server something; an error is what its problem says. */
export async function api<Answer>(path: string, body?: unknown): Promise<Answer> {
  const posted = { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, {
    headers: { ...session.headers(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    cache: "no-store",
    ...(body === undefined ? {} : posted),
  }).catch(() => {
    throw new Refused(0, "The server can't be reached.");
  });
  const answer = await response.json().catch(() => undefined);
  if (!response.ok) {
    if (response.status === 401) {
      for (const listener of refused) {
        listener();
      }
    }
    const { title, detail } = (answer ?? {}) as { title?: string; detail?: string };
    const said = [title, detail].filter((part) => part !== undefined).join(": ");
    throw new Refused(response.status, said === "" ? `The server answered ${response.status}.` : said);
  }
  return answer as Answer;
}

export function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
