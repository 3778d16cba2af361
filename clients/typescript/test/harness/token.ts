import { createHmac } from "node:crypto";

const SECRET = "a secret of the tests, longer than 32 bytes";

/** What has a server take the tokens that `token` makes, and no others. */
export const AUTHENTICATION = {
  FOGHORN_AUTH_KEYS: `[{ algorithm = "HS256", secret = "${SECRET}" }]`,
  FOGHORN_AUTH_LEEWAY: "0s",
} as const;

const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token that lives for so many seconds, whole ones. */
export function token(subject: string, seconds: number, grants: object): string {
  const now = Math.floor(Date.now() / 1_000);
  const claims = { sub: subject, iat: now, exp: now + seconds, foghorn: grants };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}
