/**
 * Client of the Tasks API for a browser whose page signs in with Better Auth's `jwt` plugin.
 *
 * Copy this file to `lib/tasks.ts` and generate the types that it imports:
 *
 *     npx openapi-typescript https://tasks.example.com/openapi.json --default-non-nullable=false -o lib/openapi.d.ts
 *
 * Use one `Tasks` for each signed-in user, and drop it on sign-out: it holds the user's
 * token in memory, and fetches another one when the API answers 401.
 *
 * A request that gets no response, 429 or 503 is sent again, up to four times, after the time in
 * `Retry-After` or else 0.5 to 8 seconds. All attempts of one `create` have the same `Idempotency-Key`, so
 * they make one task. If `create` itself rejects without a response, call it again only with the same
 * `id`. A change with a `version` is repeated only after 429: if the first attempt had succeeded, the
 * repeat would fail with a conflict.
 */
import type { components, operations } from "./openapi";

export type Task = components["schemas"]["TaskRead"];
export type NewTask = components["schemas"]["TaskCreate"];
export type TaskContent = components["schemas"]["TaskReplace"];
export type TaskChanges = components["schemas"]["TaskUpdate"];
export type Operation = components["schemas"]["Batch"]["operations"][number];
export type Result = components["schemas"]["BatchResult"];
export type Changes = components["schemas"]["TaskChanges"];
export type Problem = components["schemas"]["Problem"];
export type Filter = NonNullable<operations["list_tasks"]["parameters"]["query"]>;
/** `next` is the path of the next page, for `follow`. */
export type Page = { tasks: Task[]; next: string | undefined };

/** Thrown for every response that is not 2xx, with its RFC 9457 problem detail. */
export class TasksError extends Error {
  constructor(readonly problem: Problem, readonly headers: Headers) {
    super(`${problem.title}: ${problem.detail}`);
  }
}

/** The task has another version than the one to change. `headers` has the `ETag` of the current one. */
export class ConflictError extends TasksError {}

const BATCH = "/api/tasks/batch";
const RETRIES = 4;
/** In seconds. If `Retry-After` is longer, the error is thrown at once. */
const LONGEST_WAIT = 30;

export class Tasks {
  #token: string | undefined;

  /** `api` is the API's origin, such as `https://tasks.example.com`. */
  constructor(readonly api: string) {}

  list(filter: Filter = {}): Promise<Page> {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(filter))
      if (name === "tag" || name === "any_tag") for (const tag of value as string[]) query.append(name, tag);
      else if (value !== undefined) query.append(name, `${value}`);
    return this.follow(`/api/tasks?${query}`);
  }

  async follow(next: string): Promise<Page> {
    const response = await this.#send("GET", next);
    const link = response.headers.get("Link")?.match(/<([^>]+)>; rel="next"/);
    return { tasks: await response.json(), next: link?.[1] };
  }

  /** All tasks that match, page after page. */
  async *all(filter: Filter = {}): AsyncGenerator<Task> {
    let page = await this.list(filter);
    for (;;) {
      yield* page.tasks;
      if (page.next === undefined) return;
      page = await this.follow(page.next);
    }
  }

  /** Choose `id` yourself (a UUID) if you need it before there is a response. */
  create = (task: NewTask): Promise<Task> => this.#task("POST", "/api/tasks", task);

  get = (id: string): Promise<Task> => this.#task("GET", `/api/tasks/${id}`);

  /** With a `version`, throws a ConflictError if the task has another one. */
  replace = (id: string, task: TaskContent, version?: number): Promise<Task> =>
    this.#task("PUT", `/api/tasks/${id}`, task, version);

  /** With a `version`, throws a ConflictError if the task has another one. */
  update = (id: string, changes: TaskChanges, version?: number): Promise<Task> =>
    this.#task("PATCH", `/api/tasks/${id}`, changes, version);

  /**
   * With a `version`, throws a ConflictError if the task has another one. Resolves if there is no such
   * task: an earlier attempt may have deleted it.
   */
  async delete(id: string, version?: number): Promise<void> {
    try {
      await this.#send("DELETE", `/api/tasks/${id}`, undefined, version);
    } catch (error) {
      if (!(error instanceof TasksError && error.problem.status === 404)) throw error;
    }
  }

  /** Brings a deleted task back. With a `version`, throws a ConflictError if the task has another one. */
  restore = (id: string, version?: number): Promise<Task> =>
    this.#task("POST", `/api/tasks/${id}/restore`, undefined, version);

  /**
   * Up to 100 operations on different tasks, in one request. There is a result for each, in their order; with
   * `atomic`, rejects if one of them fails, and then none is applied. To send the same batch again after a call
   * that has rejected without a response, choose a `key` for it, such as a UUID, and use it both times.
   */
  async batch(operations: Operation[], atomic = false, key?: string): Promise<Result[]> {
    return (await (await this.#send("POST", BATCH, { operations, atomic }, undefined, { key })).json()).results;
  }

  /**
   * What has changed after the `position` of an earlier result; rejects with 410 if that has expired. If nothing
   * has, the result comes with the next change, or after `wait` seconds (0–25) without tasks; `signal` ends it.
   */
  async changes(since = "0", wait = 0, signal?: AbortSignal): Promise<Changes> {
    const path = `/api/tasks/changes?since=${since}${wait ? `&wait=${wait}` : ""}`;
    return (await this.#send("GET", path, undefined, undefined, { signal })).json();
  }

  /** All tasks of the user, deleted or not, one in each line, as JSON. */
  async exportAccount(): Promise<string> {
    return (await this.#send("GET", "/api/account/export")).text();
  }

  /** Deletes everything of the user for good, but not the user, who is Better Auth's. */
  async deleteAccount(): Promise<void> {
    await this.#send("DELETE", "/api/account");
  }

  async #task(method: string, path: string, body?: object, version?: number): Promise<Task> {
    return (await this.#send(method, path, body, version)).json();
  }

  async #send(
    method: string, path: string, body?: object, version?: number, more: { key?: string; signal?: AbortSignal } = {},
  ): Promise<Response> {
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    if (version !== undefined) headers["If-Match"] = `"${version}"`;
    if (path === "/api/tasks" || path === BATCH) headers["Idempotency-Key"] = more.key ?? crypto.randomUUID();
    const init = { method, headers, body: body && JSON.stringify(body), signal: more.signal };
    for (let retries = 0; ; retries++) {
      const response = await this.#fetchOnce(path, init, retries < RETRIES && version === undefined);
      const seconds = secondsToWait(response, retries, version === undefined);
      if (response && (seconds === undefined || retries === RETRIES)) return checked(response);
      await new Promise((resolve) => setTimeout(resolve, 1000 * (seconds ?? 0)));
    }
  }

  /** Undefined if there is no response and the request may be repeated. */
  async #fetchOnce(path: string, init: RequestInit, mayRepeat: boolean): Promise<Response | undefined> {
    try {
      const response = await this.#fetch(path, init);
      if (response.status !== 401) return response;
      this.#token = undefined; // Tokens expire after 15 minutes. A second 401 is final.
      return await this.#fetch(path, init);
    } catch (error) {
      if (mayRepeat && error instanceof TypeError) return undefined;
      throw error;
    }
  }

  /** With the whole body, so that a connection that is lost while it arrives is an error here. */
  async #fetch(path: string, init: RequestInit): Promise<Response> {
    this.#token ??= await signedInToken();
    const headers = { ...init.headers, Authorization: `Bearer ${this.#token}` };
    const response = await fetch(this.api + path, { ...init, headers });
    return new Response((await response.text()) || null, response);
  }
}

/** Before the next attempt; undefined if the response is final. */
function secondsToWait(response: Response | undefined, retries: number, mayRepeat: boolean): number | undefined {
  const backoff = 2 ** retries * (0.5 + Math.random() / 2);
  if (response === undefined) return backoff;
  if (response.status !== 429 && !(response.status === 503 && mayRepeat)) return undefined;
  const seconds = Number(response.headers.get("Retry-After") ?? backoff);
  return seconds <= LONGEST_WAIT ? seconds : undefined;
}

async function checked(response: Response): Promise<Response> {
  if (response.status === 412) throw new ConflictError(await response.json(), response.headers);
  if (!response.ok) throw new TasksError(await response.json(), response.headers);
  return response;
}

async function signedInToken(): Promise<string> {
  const response = await fetch("/api/auth/token"); // Better Auth, on the page's own origin.
  if (!response.ok) throw new Error("not signed in");
  return (await response.json()).token;
}
