import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BUILT = fileURLToPath(new URL("../../../target/ci/foghorn", import.meta.url));

/** A real `foghorn demo`. */
export class Demo {
  #process: ChildProcess | undefined;
  #address = "127.0.0.1:0";

  private constructor() {}

  /** Starts one on a free port. */
  static async start(): Promise<Demo> {
    const demo = new Demo();
    await demo.start();
    return demo;
  }

  get url(): string {
    return `http://${this.#address}/`;
  }

  /** Starts it again, where it was, with another key and nothing kept. */
  async start(): Promise<void> {
    const binary = process.env.FOGHORN_BIN ?? BUILT;
    if (!existsSync(binary)) {
      throw new Error(`${binary} isn't there: build it with cargo build --profile ci, or set FOGHORN_BIN`);
    }
    const started = spawn(binary, ["demo", "--listen", this.#address], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#process = started;
    for await (const line of createInterface(started.stdout)) {
      const address = /^The demo is at http:\/\/(\S+)\//.exec(line)?.[1];
      if (address !== undefined) {
        this.#address = address;
        started.stdout.resume();
        return;
      }
    }
    throw new Error("foghorn demo ended without saying where it is");
  }

  /** Ends it without a word, as a crash does. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** Ends it as Ctrl-C does; gives its exit code. */
  async interrupt(): Promise<number | null> {
    return await this.#end("SIGINT");
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    const running = this.#process;
    this.#process = undefined;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) {
      return null;
    }
    running.kill(signal);
    const [code] = await once(running, "exit");
    return code;
  }
}
