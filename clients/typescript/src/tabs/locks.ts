/** The lock of the tab that leads. */
const leaderLock = (name: string): string => `${name}:leader`;
/** The lock that a tab holds as long as it lives. */
const tabLock = (name: string, tab: string): string => `${name}:tab:${tab}`;

/** Whether tabs can find each other here. Web Locks are missing on pages without HTTPS, but for localhost. */
export function canShare(): boolean {
  return typeof BroadcastChannel !== "undefined" && globalThis.navigator?.locks !== undefined;
}

/** The locks by which the tabs of one name know which of them live, and which leads. */
export class Locks {
  readonly #name: string;
  /** Gives all locks back, and stops waiting for others. */
  readonly #end = new AbortController();

  constructor(name: string) {
    this.#name = name;
  }

  /** Is alive from when this resolves, until `release`. */
  live(tab: string): Promise<void> {
    return new Promise((resolve) => this.#hold(tabLock(this.#name, tab), resolve));
  }

  /** Calls `lead` when nobody else leads. This tab leads then, until `release` or its end. */
  whenLeader(lead: () => void): void {
    this.#hold(leaderLock(this.#name), lead);
  }

  /** Calls `ended` when a tab lives no more. */
  whenEnded(tab: string, ended: () => void): void {
    const { signal } = this.#end;
    // Granted as soon as nobody holds it, and given back at once.
    void navigator.locks.request(tabLock(this.#name, tab), { signal }, () => ended()).catch(ignoreAbort);
  }

  /** The tabs that live. */
  async living(): Promise<string[]> {
    const prefix = tabLock(this.#name, "");
    const { held = [] } = await navigator.locks.query();
    const names = held.map((lock) => lock.name ?? "").filter((name) => name.startsWith(prefix));
    return names.map((name) => name.slice(prefix.length));
  }

  release(): void {
    this.#end.abort();
  }

  #hold(lock: string, granted: () => void): void {
    const { signal } = this.#end;
    const untilReleased = (): Promise<void> => {
      granted();
      return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
    };
    void navigator.locks.request(lock, { signal }, untilReleased).catch(ignoreAbort);
  }
}

/** A request that is aborted while it waits is rejected, which is what was wanted. */
function ignoreAbort(error: unknown): void {
  if (!(error instanceof DOMException && error.name === "AbortError")) {
    throw error;
  }
}
