import { type Browser, chromium } from "playwright-core";

/** The Chromium that is installed: `FOGHORN_TEST_CHROMIUM`, or where Debian has it. */
export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env.FOGHORN_TEST_CHROMIUM ?? "/usr/bin/chromium",
    // The sandbox needs what containers don't give; what is opened here is ours.
    args: ["--no-sandbox", "--disable-dev-shm-usage"],
  });
}
