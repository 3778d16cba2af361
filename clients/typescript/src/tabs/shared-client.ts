import { BaseClient } from "../base-client.js";
import { FoghornError } from "../error.js";
import type { AnyEvents, Message, Status } from "../events.js";
import type { FoghornOptions } from "../options.js";
import { coversAny } from "../pattern.js";
import { readUrl } from "../url.js";
import { Leader } from "./leader.js";
import { canShare, Locks } from "./locks.js";
import type { TabMessage, Wants } from "./messages.js";

/** How long a new leader waits for tabs that live but don't answer: busy ones. */
const ANSWERS_MS = 1_000;

/**
 * Where tabs listen together. The connection is made with the options of the tab that leads; where a stream
 * begins can't be chosen, since it may have begun in another tab already.
 */
export interface SharedFoghornOptions extends Omit<FoghornOptions, "since" | "last" | "lastEventId"> {
  /**
   * Tabs of the same origin and name share a connection; by default those of the same `url`. Where tabs can
   * belong to different users, it has to name the user.
   */
  name?: string;
}

/**
 * A client that shares one connection with the other tabs of the site. One tab leads: it holds the connection,
 * for what all tabs want together, and hands each event to the others. When it closes, another takes over from
 * the last event, without loss. Where tabs can't find each other, each has a connection of its own.
 *
 * ```ts
 * const client = new SharedFoghornClient({ channels: ["orders.*"], name: `foghorn of ${user.id}` });
 * client.on("paid", show);
 * client.connect();
 * ```
 */
export class SharedFoghornClient<Events extends object = AnyEvents> extends BaseClient<Events> {
  readonly #options: FoghornOptions;
  readonly #name: string;
  readonly #tab = Math.random().toString(36).slice(2);
  #locks: Locks | undefined;
  #others: BroadcastChannel | undefined;
  #leader: Leader | undefined;
  /** What the others want that have answered since this tab was elected. */
  #answers: Map<string, Wants> | undefined;
  /** Told of each answer. */
  #onAnswer = (): void => {};
  /** Whether a leader serves this tab. */
  #isServed = false;
  #announcing = false;

  constructor({ name, ...options }: SharedFoghornOptions = {}) {
    const { address, channels } = readUrl(options);
    super(options, [...channels, ...(options.channels ?? [])], "");
    const { onConnect, onDisconnect, onError, onStatus, channels: _, ...connection } = options;
    this.#options = connection;
    this.#name = name ?? `foghorn:${address}`;
  }

  /** Whether this tab holds the connection. */
  get isLeader(): boolean {
    return this.#leader !== undefined;
  }

  override connect(): void {
    if (this.status !== "disconnected") {
      return;
    }
    this.setStatus("connecting");
    if (this.#leader !== undefined || this.#locks !== undefined) {
      // Whoever leads has given up.
      this.#leader?.connect();
      this.#say({ kind: "connect" });
    } else if (canShare()) {
      void this.#join();
    } else {
      this.#lead([]);
    }
  }

  /** Leaves the others. If this tab leads, another takes over. */
  override close(): void {
    // The others don't hear that this stream ends: for them it goes on with the next leader.
    this.#others?.close();
    this.#others = undefined;
    this.#leader?.close();
    this.#leader = undefined;
    this.#answers = undefined;
    this.#isServed = false;
    this.#locks?.release();
    this.#locks = undefined;
    this.setStatus("disconnected");
  }

  protected override wantType(): void {
    this.#announceSoon();
  }

  protected override changeChannels(): void {
    this.#announceSoon();
  }

  async #join(): Promise<void> {
    const locks = new Locks(this.#name);
    this.#locks = locks;
    // Before anything is said: whoever speaks without holding its lock is taken for gone.
    await locks.live(this.#tab);
    if (this.#locks !== locks) {
      return; // Closed meanwhile.
    }
    const others = new BroadcastChannel(this.#name);
    others.onmessage = ({ data }: MessageEvent<TabMessage>) => this.#hear(data);
    this.#others = others;
    this.#announce();
    locks.whenLeader(() => void this.#elected(locks));
  }

  /** Nobody leads: learns what all tabs want, then leads. */
  async #elected(locks: Locks): Promise<void> {
    const answers = new Map<string, Wants>();
    this.#answers = answers;
    this.#say({ kind: "elected" });
    const living = (await locks.living()).filter((tab) => tab !== this.#tab);
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, ANSWERS_MS));
    const complete = new Promise<void>((resolve) => {
      this.#onAnswer = () => living.every((tab) => answers.has(tab)) && resolve();
      this.#onAnswer();
    });
    await Promise.race([complete, timeout]);
    if (this.#locks === locks) {
      this.#lead([...answers.values()]);
    }
  }

  #lead(wants: readonly Wants[]): void {
    // A tab that has just joined hasn't heard anything yet, but others may have.
    const cursor = this.lastEventId || (wants.find((each) => each.cursor !== "")?.cursor ?? "");
    this.#leader = new Leader(this.#options, [this.#wants(), ...wants], cursor, {
      event: (message, isImplied) => this.#tellAndHear({ kind: "event", message, isImplied }),
      status: (status) => this.#tellAndHear({ kind: "status", status }),
      error: ({ code, message }) => this.#tellAndHear({ kind: "error", code, text: message }),
    });
    for (const { tab } of wants) {
      this.#watch(tab);
    }
    this.#sayLeading(cursor);
  }

  #sayLeading(cursor: string): void {
    const { tabs, status } = this.#leader as Leader;
    this.#say({ kind: "leading", tabs, status, cursor });
  }

  #watch(tab: string): void {
    this.#locks?.whenEnded(tab, () => this.#leader?.leave(tab));
  }

  #hear(message: TabMessage): void {
    switch (message.kind) {
      case "wants":
        this.#hearWants(message.wants);
        break;
      case "elected":
        this.#announce();
        break;
      case "leading":
        this.#hearLeading(message.tabs, message.status, message.cursor);
        break;
      case "event":
        this.#hearEvent(message.message, message.isImplied);
        break;
      case "status":
        this.setStatus(message.status);
        break;
      case "error":
        this.fail(new FoghornError(message.code, message.text));
        break;
      case "connect":
        this.#leader?.connect();
        break;
    }
  }

  #hearWants(wants: Wants): void {
    if (this.#leader === undefined) {
      this.#answers?.set(wants.tab, wants);
      this.#onAnswer();
    } else if (this.#leader.serve(wants)) {
      this.#watch(wants.tab);
      this.#sayLeading(this.lastEventId);
    }
  }

  #hearLeading(tabs: readonly string[], status: Status, cursor: string): void {
    if (tabs.includes(this.#tab)) {
      this.#isServed = true;
      this.setStatus(status);
      if (this.lastEventId === "") {
        this.moveCursor(cursor);
      }
      return;
    }
    if (this.#isServed) {
      // A new leader didn't hear of us in time: what only we wanted may have passed meanwhile.
      this.#isServed = false;
      this.deliver(RESET);
    }
    this.#announce();
  }

  #hearEvent(message: Message, isImplied: boolean): void {
    if (isImplied || coversAny(this.channels, message.channel)) {
      this.deliver(message);
    } else {
      // Another tab's. But should this one lead next, it goes on behind it.
      this.moveCursor(message.id);
    }
  }

  #tellAndHear(message: TabMessage): void {
    this.#say(message);
    this.#hear(message);
  }

  #say(message: TabMessage): void {
    this.#others?.postMessage(message);
  }

  /** Once for all that an application does at once. */
  #announceSoon(): void {
    if (!this.#announcing) {
      this.#announcing = true;
      queueMicrotask(() => {
        this.#announcing = false;
        this.#announce();
      });
    }
  }

  #announce(): void {
    const wants = this.#wants();
    this.#leader?.serve(wants);
    this.#say({ kind: "wants", wants });
  }

  #wants(): Wants {
    return { tab: this.#tab, channels: this.channels, types: [...this.types()], cursor: this.lastEventId };
  }
}

/** What a tab is told that was left out for a moment. */
const RESET: Message = {
  type: "stream-reset",
  channel: "",
  id: "",
  time: undefined,
  text: JSON.stringify({ reason: "tabs" }),
};
