import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // Most of the time they wait for a server. Each file of the browser's tests has a browser of its own.
    maxWorkers: 2,
    projects: [
      { test: { name: "unit", include: ["test/unit/**/*.test.ts"], restoreMocks: true } },
      {
        test: {
          name: "browser",
          include: ["test/browser/**/*.test.ts"],
          testTimeout: 30_000,
          hookTimeout: 60_000,
          // What has to come back waits for a `retry:` first.
          expect: { poll: { timeout: 20_000 } },
        },
      },
      { test: { name: "package", include: ["test/package/**/*.test.ts"], testTimeout: 120_000 } },
    ],
  },
});
