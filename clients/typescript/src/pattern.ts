/**
 * Whether a pattern covers a channel: `*` stands for one token, `>` at the end for one or more. A channel is a
 * pattern that covers itself.
 */
export function covers(pattern: string, channel: string): boolean {
  if (pattern === channel) {
    return true;
  }
  if (channel === "") {
    return false; // No channel, but an event of the stream's own.
  }
  const wanted = pattern.split(".");
  const tokens = channel.split(".");
  for (const [index, token] of wanted.entries()) {
    if (token === ">" && index === wanted.length - 1) {
      return tokens.length > index;
    }
    if (index >= tokens.length || (token !== "*" && token !== tokens[index])) {
      return false;
    }
  }
  return tokens.length === wanted.length;
}

/** Whether one of these patterns covers a channel. */
export function coversAny(patterns: readonly string[], channel: string): boolean {
  return patterns.some((pattern) => covers(pattern, channel));
}
