import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
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
  cpSync(join(root, "test/package/fixture/use.ts"), join(project, "use.ts"));
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

it.each([
  ["nodenext", "nodenext"],
  ["esnext", "bundler"],
])("has types for modules of the kind %s, resolved as %s does", (module, moduleResolution) => {
  const options = [
    "--strict",
    "--skipLibCheck",
    "false",
    "--target",
    "es2022",
    "--lib",
    "es2022,dom,dom.iterable",
  ];
  const types = ["--types", "node", "--noEmit", "--module", module, "--moduleResolution", moduleResolution];
  expect(run(tsc, [...options, ...types, "use.ts"], project)).toBe("");
});

it("listens in a fresh project in Node", async () => {
  const foghorn = await Foghorn.start();
  try {
    const emit = ["--skipLibCheck", "--target", "es2022", "--module", "nodenext", "--types", "node"];
    run(tsc, [...emit, "--lib", "es2022,dom,dom.iterable", "use.ts"], project);
    const child = spawn(process.execPath, ["use.js", foghorn.url], {
      cwd: project,
      stdio: ["ignore", "pipe", "inherit"],
    });
    const lines: string[] = [];
    for await (const line of createInterface(child.stdout)) {
      lines.push(line);
      if (line === "connected") {
        await foghorn.publish({ channel: "orders.eu", event: "paid", data: { amount: 990 } });
      }
    }
    // It ends by itself: a closed client leaves nothing behind that keeps a process alive.
    expect(lines).toEqual(["connected", "orders.eu 990"]);
  } finally {
    await foghorn.remove();
  }
});
