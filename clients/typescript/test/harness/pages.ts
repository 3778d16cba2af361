import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** A server of pages whose one script is a bundle of a test's own, of another origin than Foghorn's. */
export class Pages {
  readonly #server: Server;
  readonly #bundles = new Map<string, string>();
  readonly #answers = new Map<string, RequestListener>();

  private constructor() {
    this.#server = createServer((request, response) => {
      const path = new URL(request.url ?? "/", "http://localhost").pathname;
      const answer = this.#answers.get(path);
      const bundle = this.#bundles.get(path.replace(/^\/script\//, ""));
      if (answer !== undefined) {
        answer(request, response);
      } else if (path.startsWith("/script/") && bundle !== undefined) {
        response.writeHead(200, { "Content-Type": "text/javascript" }).end(bundle);
      } else if (this.#bundles.has(`${path.slice(1)}.js`)) {
        const page = `<!doctype html><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="/script${path}.js"></script>`;
        response.writeHead(200, { "Content-Type": "text/html" }).end(page);
      } else {
        response.writeHead(404).end();
      }
    });
  }

  /** Starts it with the scripts of `test/browser/page`, by their names. */
  static async start(...names: string[]): Promise<Pages> {
    const pages = new Pages();
    const { outputFiles } = await build({
      entryPoints: names.map((name) => fileURLToPath(new URL(`../browser/page/${name}.ts`, import.meta.url))),
      bundle: true,
      write: false,
      format: "esm",
      outdir: "/",
      define: { "process.env.NODE_ENV": '"development"' },
    });
    for (const file of outputFiles) {
      pages.#bundles.set(file.path.replace(/^.*\//, ""), file.text);
    }
    pages.#server.listen(0, "127.0.0.1");
    await once(pages.#server, "listening");
    return pages;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Has requests for a path answered by the test. */
  answer(path: string, answer: RequestListener): void {
    this.#answers.set(path, answer);
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}
