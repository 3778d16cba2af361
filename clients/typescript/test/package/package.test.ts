import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Foghorn } from "../harness/foghorn.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const project = mkdtempSync(join(tmpdir(), "foghorn-package-"));
const installed = join(project, "node_modules/@foghorn/client");
const tsc = join(root, "node_modules/.bin/tsc");

const run = (program: string, args: string[], cwd: string): string =>
  execFileSync(program, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

beforeAll(() => {
  run("npm", ["pack", "--loglevel=error", "--pack-destination", project], root);
  const [tarball] = readdirSync(project).filter((name) => name.endsWith(".tgz"));
  writeFileSync(join(project, "package.json"), '{ "name": "fresh", "private": true, "type": "module" }');
  // It has no dependencies, so no registry is asked.
  run("npm", ["install", "--offline", `./${tarball}`], project);
  // What an application that uses the hooks has installed itself.
  mkdirSync(join(project, "node_modules/@types"));
  for (const name of ["react", "csstype", "@types/react", "@types/node", "undici-types"]) {
    symlinkSync(join(root, "node_modules", name), join(project, "node_modules", name));
  }
  cpSync(join(root, "test/package/fixture"), project, { recursive: true });
}, 120_000);

afterAll(() => {
  rmSync(project, { recursive: true });
});

it("holds what is needed and nothing else", () => {
  expect(readdirSync(installed).sort()).toEqual(["LICENSE", "README.md", "dist", "package.json"]);
  const files = readdirSync(join(installed, "dist"), { recursive: true, encoding: "utf8" });
  const other = files.filter((name) => /\./.test(name) && !/\.(js|d\.ts)$/.test(name));
  expect(other).toEqual([]);
});

const OPTIONS = ["--strict", "--exactOptionalPropertyTypes", "--skipLibCheck", "false", "--target", "es2022"];
const BROWSER = ["--lib", "es2022,dom,dom.iterable", "--types", "react", "--noEmit"];

it.each([
  ["nodenext", "nodenext"],
  ["esnext", "bundler"],
])("has types for modules of the kind %s, resolved as %s does", (module, moduleResolution) => {
  const modules = ["--module", module, "--moduleResolution", moduleResolution];
  expect(run(tsc, [...OPTIONS, ...BROWSER, ...modules, "browser.ts"], project)).toBe("");
});

it("listens in a fresh project in Node, which needs no types of browsers", async () => {
  const foghorn = await Foghorn.start();
  try {
    run(tsc, [...OPTIONS, "--lib", "es2023", "--types", "node", "--module", "nodenext", "node.ts"], project);
    const stdio = ["ignore", "pipe", "inherit"] as const;
    const child = spawn(process.execPath, ["node.js", foghorn.url], { cwd: project, stdio: [...stdio] });
    const lines: string[] = [];
    for await (const line of createInterface(child.stdout as Readable)) {
      lines.push(line);
      if (line === "connected") {
        const payload = gzipSync('{"amount":990}').toString("base64");
        await foghorn.publish({ channel: "orders.eu", event: "paid", data: { compressed: true, payload } });
      }
    }
    // It ends by itself: a closed client leaves nothing behind that keeps a process alive.
    expect(lines).toEqual(["connected", "orders.eu 990"]);
  } finally {
    await foghorn.remove();
  }
});
