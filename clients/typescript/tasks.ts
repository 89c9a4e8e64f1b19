/**
 * Client of the Tasks API for a browser whose page signs in with Better Auth's `jwt` plugin.
 *
 * Copy this file to `lib/tasks.ts` and generate the types that it imports:
 *
 *     npx openapi-typescript https://tasks.example.com/openapi.json --default-non-nullable=false -o lib/openapi.d.ts
 *
 * Use one `Tasks` for each signed-in user, and drop it on sign-out: it holds the user's
 * token in memory, and fetches another one when the API answers 401.
 */
import type { components, operations } from "./openapi";

export type Task = components["schemas"]["TaskRead"];
export type NewTask = components["schemas"]["TaskCreate"];
export type TaskChanges = components["schemas"]["TaskUpdate"];
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

  create = (task: NewTask): Promise<Task> => this.#task("POST", "/api/tasks", task);

  get = (id: string): Promise<Task> => this.#task("GET", `/api/tasks/${id}`);

  /** With a `version`, throws a ConflictError if the task has another one. */
  replace = (id: string, task: NewTask, version?: number): Promise<Task> =>
    this.#task("PUT", `/api/tasks/${id}`, task, version);

  /** With a `version`, throws a ConflictError if the task has another one. */
  update = (id: string, changes: TaskChanges, version?: number): Promise<Task> =>
    this.#task("PATCH", `/api/tasks/${id}`, changes, version);

  /** With a `version`, throws a ConflictError if the task has another one. */
  async delete(id: string, version?: number): Promise<void> {
    await this.#send("DELETE", `/api/tasks/${id}`, undefined, version);
  }

  /** Brings a deleted task back. With a `version`, throws a ConflictError if the task has another one. */
  restore = (id: string, version?: number): Promise<Task> =>
    this.#task("POST", `/api/tasks/${id}/restore`, undefined, version);

  async #task(method: string, path: string, body?: object, version?: number): Promise<Task> {
    return (await this.#send(method, path, body, version)).json();
  }

  async #send(method: string, path: string, body?: object, version?: number): Promise<Response> {
    let response = await this.#fetch(method, path, body, version);
    if (response.status === 401) {
      this.#token = undefined; // Tokens expire after 15 minutes. A second 401 is final.
      response = await this.#fetch(method, path, body, version);
    }
    if (response.status === 412) throw new ConflictError(await response.json(), response.headers);
    if (!response.ok) throw new TasksError(await response.json(), response.headers);
    return response;
  }

  async #fetch(method: string, path: string, body?: object, version?: number): Promise<Response> {
    this.#token ??= await signedInToken();
    const headers: Record<string, string> = {
      Authorization: `Bearer ${this.#token}`,
      "Content-Type": "application/json",
    };
    if (version !== undefined) headers["If-Match"] = `"${version}"`;
    return fetch(this.api + path, { method, headers, body: body && JSON.stringify(body) });
  }
}

async function signedInToken(): Promise<string> {
  const response = await fetch("/api/auth/token"); // Better Auth, on the page's own origin.
  if (!response.ok) throw new Error("not signed in");
  return (await response.json()).token;
}
