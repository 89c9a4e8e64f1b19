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

export class Tasks {
  #token: string | undefined;

  /** `api` is the API's origin, such as `https://tasks.example.com`. */
  constructor(readonly api: string) {}

  list(filter: Filter = {}): Promise<Page> {
    const given = Object.entries(filter).filter(([, value]) => value !== undefined);
    return this.follow(`/api/tasks?${new URLSearchParams(given.map(([name, value]) => [name, `${value}`]))}`);
  }

  async follow(next: string): Promise<Page> {
    const response = await this.#send("GET", next);
    const link = response.headers.get("Link")?.match(/<([^>]+)>; rel="next"/);
    return { tasks: await response.json(), next: link?.[1] };
  }

  create = (task: NewTask): Promise<Task> => this.#task("POST", "/api/tasks", task);

  get = (id: string): Promise<Task> => this.#task("GET", `/api/tasks/${id}`);

  replace = (id: string, task: NewTask): Promise<Task> => this.#task("PUT", `/api/tasks/${id}`, task);

  update = (id: string, changes: TaskChanges): Promise<Task> =>
    this.#task("PATCH", `/api/tasks/${id}`, changes);

  async delete(id: string): Promise<void> {
    await this.#send("DELETE", `/api/tasks/${id}`);
  }

  async #task(method: string, path: string, body?: object): Promise<Task> {
    return (await this.#send(method, path, body)).json();
  }

  async #send(method: string, path: string, body?: object): Promise<Response> {
    let response = await this.#fetch(method, path, body);
    if (response.status === 401) {
      this.#token = undefined; // Tokens expire after 15 minutes. A second 401 is final.
      response = await this.#fetch(method, path, body);
    }
    if (!response.ok) throw new TasksError(await response.json(), response.headers);
    return response;
  }

  async #fetch(method: string, path: string, body?: object): Promise<Response> {
    this.#token ??= await signedInToken();
    const headers = { Authorization: `Bearer ${this.#token}`, "Content-Type": "application/json" };
    return fetch(this.api + path, { method, headers, body: body && JSON.stringify(body) });
  }
}

async function signedInToken(): Promise<string> {
  const response = await fetch("/api/auth/token"); // Better Auth, on the page's own origin.
  if (!response.ok) throw new Error("not signed in");
  return (await response.json()).token;
}
