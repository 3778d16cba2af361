import { FoghornError, type Problem } from "../error.js";

/** How much of the body of a refusal is read. */
const PROBLEM_BYTES = 16 * 1024;
/** Statuses of 400 and above, below 500, after which the same request can succeed: timeouts and limits of rate. */
const PASSING = new Set([408, 425, 429]);

/** Whether the same request can't succeed later either. */
export function isFinal(status: number): boolean {
  return status === 204 || (status >= 400 && status < 500 && !PASSING.has(status));
}

/** The error of an answer that is no stream. */
export async function refusal(response: Response): Promise<FoghornError> {
  const { status } = response;
  const problem = await readProblem(response);
  const said = problem?.detail ?? problem?.title;
  const type = response.headers.get("content-type") ?? "no content type";
  const what = status === 200 ? `answered with ${type} instead of a stream` : `answered with ${status}`;
  const message = said === undefined ? `the server ${what}` : `the server ${what}: ${said}`;
  return new FoghornError("refused", message, problem === undefined ? { status } : { status, problem });
}

async function readProblem(response: Response): Promise<Problem | undefined> {
  const isProblem = response.headers.get("content-type")?.startsWith("application/problem+json");
  if (!isProblem || response.body === null) {
    await response.body?.cancel();
    return undefined;
  }
  try {
    const problem: unknown = JSON.parse(await readStart(response.body));
    return typeof problem === "object" && problem !== null ? problem : undefined;
  } catch {
    return undefined;
  }
}

async function readStart(body: ReadableStream<Uint8Array>): Promise<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (text.length < PROBLEM_BYTES) {
    const { done, value } = await reader.read();
    if (done) {
      return text;
    }
    text += decoder.decode(value, { stream: true });
  }
  await reader.cancel();
  return text;
}
