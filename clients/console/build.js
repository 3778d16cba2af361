// Writes what the binary embeds, so that it is built without Node. The same sources give the same bytes.
import { copyFileSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const assets = process.argv[2] ?? at("../../crates/foghorn/assets/console");

mkdirSync(assets, { recursive: true });
await build({
  absWorkingDir: at("."),
  entryPoints: { console: "src/main.ts", style: "src/style.css" },
  outdir: assets,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
});
copyFileSync(at("src/index.html"), `${assets}/index.html`);
