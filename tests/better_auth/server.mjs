/**
 * Better Auth as a frontend team runs it, for tests. People are kept in memory.
 *
 *     node server.mjs eddsa|es256|hs256 [folder]
 *
 * Prints its URL when it listens, and ends when its standard input does.
 *
 *     /api/auth/…              Better Auth
 *     PUT  /test/options       deploys it anew with these options, and the same people:
 *                              secret, expirationTime, gracePeriod, cookieCache, tasksApi
 *     POST /test/expire-keys   lets the rotation interval of all signing keys be over
 *     GET  /test/mails         the tokens of the verification e-mails sent, by address
 *     /…                       the files of the folder: the frontend's page
 */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, extname, join } from "node:path";
import { json } from "node:stream/consumers";

import { APIError, betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";
import { SignJWT } from "jose";

const [setUp, folder = "."] = process.argv.slice(2);
const people = { user: [], session: [], account: [], verification: [], jwks: [] };
const mails = {};
let url;
let handleAuth;

const keySource = {
  eddsa: ({ gracePeriod }) => ({ jwks: { gracePeriod } }),
  es256: ({ gracePeriod }) => ({ jwks: { gracePeriod, keyPairConfig: { alg: "ES256" } } }),
  // With a `sign` of its own, the plugin wants to be told of keys that it then never uses.
  hs256: ({ secret }) => ({
    jwks: { remoteUrl: `${url}/unused-jwks.json`, keyPairConfig: { alg: "EdDSA" } },
    jwt: {
      sign: (payload) =>
        new SignJWT(payload).setProtectedHeader({ alg: "HS256" }).sign(new TextEncoder().encode(secret)),
    },
  }),
};

function tokens(options) {
  const { jwks, jwt: signing } = keySource[setUp](options);
  // Cached sessions are signed with the secret, or by the plugin when it is told to.
  const sessionCookieCache = options.cookieCache === "keys";
  return jwt({ jwks, jwt: { ...signing, expirationTime: options.expirationTime }, sessionCookieCache });
}

// As in the README.
async function deleteTasks(auth, tasksApi, request) {
  if (!request) throw new APIError("BAD_REQUEST", { message: "Delete the user with the HTTP endpoint." });
  const { token } = await auth.api.getToken({ headers: request.headers });
  const response = await fetch(`${tasksApi}/api/account`, {
    method: "DELETE",
    headers: { Authorization: `Bearer ${token}` },
    signal: AbortSignal.timeout(20_000),
  }).catch(() => undefined);
  if (!response?.ok) throw new APIError("SERVICE_UNAVAILABLE", { message: "Try again later." });
}

function deploy(options) {
  const auth = betterAuth({
    baseURL: url,
    secret: options.secret,
    database: memoryAdapter(people),
    emailAndPassword: { enabled: true },
    user: {
      deleteUser: {
        enabled: options.tasksApi !== undefined,
        beforeDelete: (_, request) => deleteTasks(auth, options.tasksApi, request),
      },
    },
    emailVerification: {
      sendOnSignUp: true,
      sendVerificationEmail: async ({ user, token }) => {
        mails[user.email] = token;
      },
    },
    session: { cookieCache: { enabled: options.cookieCache !== undefined, strategy: "jwt" } },
    plugins: [tokens(options)],
    logger: { level: "error" },
    telemetry: { enabled: false },
  });
  handleAuth = toNodeHandler(auth);
}

function expireKeys() {
  for (const key of people.jwks) key.expiresAt = new Date();
}

const CONTENT_TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript" };

async function sendFile(path, response) {
  const name = path === "/" ? "index.html" : basename(path);
  const file = await readFile(join(folder, name)).catch(() => undefined);
  response.writeHead(file ? 200 : 404, { "Content-Type": CONTENT_TYPES[extname(name)] ?? "text/plain" });
  response.end(file);
}

async function handle(request, response) {
  const { pathname } = new URL(request.url, url);
  if (pathname.startsWith("/api/auth/")) return handleAuth(request, response);
  if (!pathname.startsWith("/test/")) return sendFile(pathname, response);
  if (pathname === "/test/options") deploy(await json(request));
  if (pathname === "/test/expire-keys") expireKeys();
  response.end(JSON.stringify(mails));
}

const server = createServer(handle);
server.listen(0, "127.0.0.1", () => {
  url = `http://127.0.0.1:${server.address().port}`;
  console.log(url);
});
process.stdin.on("end", () => process.exit()).resume();
