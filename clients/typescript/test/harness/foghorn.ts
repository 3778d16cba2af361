import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BUILT = fileURLToPath(new URL("../../../../target/ci/foghorn", import.meta.url));

/** A real server, `foghorn standalone` on a data directory, that a test kills and starts as it likes. */
export class Foghorn {
  readonly #data = mkdtempSync(join(tmpdir(), "foghorn-client-"));
  readonly #environment: Record<string, string>;
  #process: ChildProcess | undefined;
  #address = "127.0.0.1:0";

  private constructor(environment: Record<string, string>) {
    this.#environment = environment;
  }

  /** Starts one on a free port. The environment configures it: `FOGHORN_GATEWAY_RETRY`. */
  static async start(environment: Record<string, string> = {}): Promise<Foghorn> {
    const foghorn = new Foghorn(environment);
    await foghorn.start();
    return foghorn;
  }

  get origin(): string {
    return `http://${this.#address}`;
  }

  get url(): string {
    return `${this.origin}/api/events`;
  }

  /** Starts it again, where it was. */
  async start(): Promise<void> {
    const binary = process.env.FOGHORN_BIN ?? BUILT;
    if (!existsSync(binary)) {
      throw new Error(`${binary} isn't there: build it with cargo build --profile ci, or set FOGHORN_BIN`);
    }
    const ports = ["--listen", this.#address, "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    const started = spawn(binary, ["standalone", ...ports, "--log", "json", "--data", this.#data], {
      env: { ...process.env, FOGHORN_GATEWAY_RETRY: "1s", ...this.#environment },
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#process = started;
    const log: string[] = [];
    for await (const line of createInterface(started.stderr)) {
      log.push(line);
      const address = httpAddress(line);
      if (address !== undefined) {
        this.#address = address;
        started.stderr.resume(); // Or a full pipe would stop it.
        return;
      }
    }
    throw new Error(`foghorn ended instead of listening:\n${log.join("\n")}`);
  }

  /** Ends it without a word, as a crash does. */
  async kill(): Promise<void> {
    const running = this.#process;
    this.#process = undefined;
    if (running !== undefined && running.exitCode === null && running.signalCode === null) {
      running.kill("SIGKILL");
      await once(running, "exit");
    }
  }

  /** Has it hang: connections stay, and nothing comes any more. */
  hang(): void {
    this.#process?.kill("SIGSTOP");
  }

  comeTo(): void {
    this.#process?.kill("SIGCONT");
  }

  /** Kills it and removes what it stored. */
  async remove(): Promise<void> {
    await this.kill();
    rmSync(this.#data, { recursive: true });
  }

  /** Publishes an event; tries again until it is stored, which its id keeps from being stored twice. */
  async publish(event: { channel: string; event?: string; data: unknown }, token?: string): Promise<void> {
    const body = JSON.stringify({ ...event, id: crypto.randomUUID() });
    const authorization = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    for (let attempt = 0; attempt < 200; attempt += 1) {
      try {
        const response = await fetch(`${this.origin}/api/publish`, {
          method: "POST",
          headers: { "Content-Type": "application/json", ...authorization },
          body,
          signal: AbortSignal.timeout(5_000),
        });
        if (response.ok) {
          return;
        }
        if (response.status < 500) {
          throw new Refused(await response.text());
        }
      } catch (error) {
        if (error instanceof Refused) {
          throw error;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`not published: ${body}`);
  }
}

class Refused extends Error {}

function httpAddress(line: string): string | undefined {
  try {
    const { message, service, address } = JSON.parse(line);
    return message === "listening" && service === "http" ? address : undefined;
  } catch {
    return undefined;
  }
}
