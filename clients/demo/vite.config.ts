import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** Where `foghorn demo` serves, for `npm run dev`. */
const SERVER = "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [react()],
  // `foghorn demo` answers `/` with the page, and has its other files below this.
  base: "/demo/",
  resolve: {
    alias: {
      "@foghorn/client/react": at("../typescript/src/react/index.ts"),
      "@foghorn/client/tabs": at("../typescript/src/tabs/index.ts"),
    },
    // The package's folder may have a React of its own, for its tests.
    dedupe: ["react", "react-dom"],
  },
  build: {
    // What the binary embeds, so that it is built without Node. The same sources give the same bytes.
    outDir: at("../../crates/foghorn/assets/demo"),
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    rolldownOptions: {
      // React's licence asks for its notice.
      output: { comments: { legal: true }, entryFileNames: "demo.js", assetFileNames: "demo[extname]" },
    },
  },
  server: {
    proxy: { "/api": SERVER, "/demo/session": SERVER, "/demo/job": SERVER, "/demo/notification": SERVER },
  },
});
