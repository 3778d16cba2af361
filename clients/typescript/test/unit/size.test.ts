import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { expect, it } from "vitest";

const source = (path: string): string => fileURLToPath(new URL(`../../src/${path}`, import.meta.url));

/** What an application's bundle grows by that imports these names. */
async function gzipped(path: string, names: string): Promise<number> {
  const { outputFiles } = await build({
    stdin: { contents: `export { ${names} } from ${JSON.stringify(source(path))}`, resolveDir: "." },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    external: ["react"],
  });
  return gzipSync(outputFiles[0]?.contents ?? new Uint8Array(), { level: 9 }).length;
}

it.each([
  ["index.ts", "FoghornClient", 4_096],
  ["fetch/index.ts", "fetchTransport", 2_048],
  ["compression/index.ts", "decompress", 1_024],
  ["live/index.ts", "liveChanges", 1_024],
  ["tabs/index.ts", "SharedFoghornClient", 5_632],
  ["react/index.ts", "FoghornProvider, useEvents, useFoghorn", 5_120],
  ["index.ts", "FoghornError", 400],
])("%s: %s is at most %i bytes, minified and compressed", async (path, names, bound) => {
  const bytes = await gzipped(path, names);
  console.info(`${names}: ${bytes} bytes`);
  expect(bytes).toBeLessThanOrEqual(bound);
});
