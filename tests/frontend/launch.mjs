/** Chromium that calls nobody by itself. */

import { chromium } from "playwright-core";

// Nothing but what the page asks for: without these, Chromium calls its maker.
const QUIET = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-gpu",
  "--disable-quic",
  "--disable-sync",
  "--no-first-run",
];

/** As root, as in most containers, Chromium's own sandbox cannot be used. */
export const launch = (executablePath, ...more) =>
  chromium.launch({ executablePath, args: [...QUIET, ...more], chromiumSandbox: false });
