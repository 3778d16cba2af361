import type { FoghornErrorCode } from "../error.js";
import type { Message, Status } from "../events.js";

/** What a tab wants to hear. */
export interface Wants {
  readonly tab: string;
  readonly channels: readonly string[];
  readonly types: readonly string[];
  /** Up to where it has heard. */
  readonly cursor: string;
}

/** What tabs say to each other. */
export type TabMessage =
  /** Of every tab, when it joins, when its wants change, and when it is asked. */
  | { readonly kind: "wants"; readonly wants: Wants }
  /** Of a new leader: what do you all want? */
  | { readonly kind: "elected" }
  /** Of the leader, when it begins and when somebody has joined: these tabs are served. */
  | {
      readonly kind: "leading";
      readonly tabs: readonly string[];
      readonly status: Status;
      readonly cursor: string;
    }
  /**
   * Of the leader: what the stream brings. It is for the tabs that subscribed to its channel; if none did
   * (`isImplied`), for all: everybody hears `broadcast` and the user's own channel without asking.
   */
  | { readonly kind: "event"; readonly message: Message; readonly isImplied: boolean }
  | { readonly kind: "status"; readonly status: Status }
  | { readonly kind: "error"; readonly code: FoghornErrorCode; readonly text: string }
  /** Of a tab, when the leader has given up: try again. */
  | { readonly kind: "connect" };
