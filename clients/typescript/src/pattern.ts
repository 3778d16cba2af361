/**
 * Whether a pattern covers a channel: `*` stands for one token, `>` at the end for one or more. A channel is a
 * pattern that covers itself.
 */
export function covers(pattern: string, channel: string): boolean {
  if (pattern === channel) {
    return true;
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
