/** What went wrong, for programs. */
export type FoghornErrorCode =
  /** The connection was lost, or could not be made. The client tries again. */
  | "connection-lost"
  /** Nothing was heard for `heartbeatTimeout`, so the connection is taken for dead. The client tries again. */
  | "heartbeat-missed"
  /** The server answered with another status than 200, or with something else than a stream. See `status`. */
  | "refused"
  /** `prepare`, or the function that gives the headers, failed. The client tries again. */
  | "prepare-failed"
  /** An event was larger than the bound of the transport or of `decompress`, and left out. The stream goes on behind it. */
  | "event-too-large"
  /** `decode` failed for an event, which was left out. The stream goes on behind it. */
  | "decode-failed"
  /** `maxRetries` attempts in a row failed. The client has given up, until `connect()`. */
  | "retries-exhausted"
  /** The user has opened more streams elsewhere than one may, and this was the oldest. The client is closed, until `connect()`. */
  | "ousted"
  /** This platform lacks what the client needs. */
  | "unsupported";

/** What the server says about a refusal: `application/problem+json` (RFC 9457). */
export interface Problem {
  /** Which kind of problem, a URL. Foghorn's are in its `docs/problems.md`. */
  readonly type?: string;
  readonly title?: string;
  readonly detail?: string;
}

/** What an error has beside its code and text. */
export interface FoghornErrorDetails {
  /** What caused it. */
  readonly cause?: unknown;
  /** The HTTP status of a refusal, where the transport can see it. */
  readonly status?: number;
  /** The body of a refusal, where the transport can see it. */
  readonly problem?: Problem;
}

/** An error of the client. */
export class FoghornError extends Error {
  override readonly name = "FoghornError";
  readonly code: FoghornErrorCode;
  /** The HTTP status of a refusal; `undefined` where the transport can't see it, as with EventSource. */
  readonly status: number | undefined;
  /** What the server said about a refusal, if it did. */
  readonly problem: Problem | undefined;

  constructor(code: FoghornErrorCode, message: string, details: FoghornErrorDetails = {}) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.code = code;
    this.status = details.status;
    this.problem = details.problem;
  }
}

/** Reports what an application's own function threw, without letting it stop anything else. */
export function reportThrown(thrown: unknown): void {
  if (typeof reportError === "function") {
    reportError(thrown);
  } else {
    console.error(thrown);
  }
}
