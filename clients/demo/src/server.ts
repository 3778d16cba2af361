/** Asks the demo for something; an error says why it wasn't done. */
export async function ask(path: string): Promise<void> {
  const answer = await fetch(path, { method: "POST", signal: AbortSignal.timeout(10_000) });
  if (!answer.ok) {
    throw new Error(await reason(answer));
  }
}

/** The data of a channel's newest events, the newest first. */
export async function newest<T>(channel: string, limit: number, signal: AbortSignal): Promise<T[]> {
  const answer = await fetch(`/api/channels/${channel}/events?limit=${limit}`, { signal });
  if (!answer.ok) {
    throw new Error(await reason(answer));
  }
  const { events } = (await answer.json()) as { events: { data: string }[] };
  return events.map(({ data }) => JSON.parse(data) as T);
}

async function reason(answer: Response): Promise<string> {
  const problem: { title?: string; detail?: string } = await answer.json().catch(() => ({}));
  return [problem.title ?? `The server answered ${answer.status}`, problem.detail].filter(Boolean).join(": ");
}
