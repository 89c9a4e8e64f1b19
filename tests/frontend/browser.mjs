/**
 * A headless Chromium that does what it is told, one command in JSON a line:
 *
 *     {"open": url}                                   opens a page with cookies of its own
 *     {"page": number, "act": name, "parameters": []} calls `act` of that page
 *
 * Answers each with a line of JSON, and ends when its standard input does.
 */

import { createInterface } from "node:readline";

import { launch } from "./launch.mjs";

const [executablePath] = process.argv.slice(2);
const browser = await launch(executablePath);
const pages = [];

async function obey({ open, page, act, parameters }) {
  if (open === undefined) return pages[page].evaluate(([name, rest]) => window.act(name, ...rest), [act, parameters]);
  const context = await browser.newContext();
  const opened = await context.newPage();
  await opened.goto(open);
  return { page: pages.push(opened) - 1 };
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await obey(JSON.parse(line)).catch((error) => ({ error: String(error) }));
  console.log(JSON.stringify(answer));
}
await browser.close();
