/**
 * Opens /docs in Chromium, signs in with a token, creates and updates a task, and prints in JSON what happened:
 *
 *     node docs.mjs <chromium> <url of /docs> <token> <file for a screenshot>
 */

import { launch } from "./launch.mjs";

const [executablePath, url, token, file] = process.argv.slice(2);
const PATIENCE = 20_000;
const WIDTH = 1280;

// Only loopback is reachable: another host cannot be reached even where there is a network.
const browser = await launch(executablePath, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1");
const page = await browser.newPage({ viewport: { width: WIDTH, height: 1400 } });
page.setDefaultTimeout(PATIENCE);

const seen = { requests: [], failures: [], complaints: [], violations: [], kept: [], rendered: {} };
page.on("request", (request) => seen.requests.push(request.url()));
page.on("requestfailed", (request) => seen.failures.push(request.url()));
page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.complaints.push(message.text()));
page.on("pageerror", (error) => seen.complaints.push(String(error)));
await page.exposeFunction("violated", (violation) => seen.violations.push(violation));
await page.addInitScript(() =>
  document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sample }) =>
    window.violated({ violatedDirective, blockedURI, sample }),
  ),
);

/** What the page shows of the document. */
async function read() {
  await page.goto(url);
  await page.locator(".opblock").first().waitFor();
  seen.rendered = {
    title: await page.locator(".info .title").innerText(),
    operations: await page.locator(".opblock").evaluateAll((blocks) => blocks.map(({ id }) => id)),
    errors: await page.locator(".errors-wrapper").allInnerTexts(),
  };
}

async function signIn() {
  await page.locator(".btn.authorize").click();
  await page.locator(".auth-container input").fill(token);
  await page.locator(".modal-btn.authorize").click();
  await page.locator(".btn-done").click();
}

/** Send the example of an operation, to the task when it is about one, and give the answer. */
async function tryOut(name, task) {
  const operation = page.locator(`#operations-tasks-${name}`);
  await operation.locator(".opblock-summary-control").click();
  await operation.locator(".try-out__btn").click();
  if (task) await operation.getByPlaceholder("task_id").fill(task);
  await operation.locator(".execute").click();
  const answer = operation.locator(".live-responses-table tbody .response");
  const body = await answer.locator(".highlight-code code").first().innerText();
  return { status: await answer.locator(".response-col_status").innerText(), body: JSON.parse(body) };
}

/** The operations, and one that has been tried, without the token that Swagger UI shows with its command. */
async function picture() {
  const operation = page.locator("#operations-tasks-update_task");
  await page.locator("#operations-tasks-create_task .opblock-summary-control").click();
  await operation.locator(".curl span", { hasText: token }).evaluate((shown) => {
    shown.textContent = "'Authorization: Bearer …'";
  });
  await operation.locator("textarea").evaluate((text) => {
    text.style.height = text.style.minHeight = "6em";
    document.activeElement.blur();
    window.scrollTo(0, 0);
  });
  await page.mouse.move(0, 0);
  const top = await page.locator(".opblock-tag").first().boundingBox();
  const body = await operation.locator(".live-responses-table .highlight-code").first().boundingBox();
  const clip = { x: 0, y: top.y, width: WIDTH, height: body.y + body.height + 6 - top.y };
  await page.screenshot({ path: file, clip, fullPage: true, animations: "disabled" });
}

/** All that is folded, because each part may break the page's policy in its own way. */
async function unfold() {
  const folded = page.locator(".opblock:not(.is-open) .opblock-summary-control, .models [aria-expanded=false]");
  while (await folded.count()) await folded.evaluateAll((parts) => parts.forEach((part) => part.click()));
  seen.unfolded = await page.locator(".opblock.is-open").count();
}

async function scenario() {
  await read();
  await signIn();
  seen.created = await tryOut("create_task");
  seen.updated = await tryOut("update_task", seen.created.body.id);
  seen.kept = await page.evaluate(() => [...Object.entries(localStorage), ...Object.entries(sessionStorage)]);
  await picture();
  await unfold();
}

await scenario().catch((error) => seen.complaints.push(String(error)));
console.log(JSON.stringify(seen));
await browser.close();
