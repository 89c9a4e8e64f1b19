/**
 * The frontend's page, as a test drives it: what a person does with it is a call
 * of `act`. It has nothing but `fetch` and `clients/typescript/tasks.ts`.
 *
 *     /?api=http://127.0.0.1:8000
 */
import { ConflictError, type Filter, type Task, Tasks, TasksError } from "./tasks.js";

const api = new URLSearchParams(location.search).get("api") ?? "";
const tasks = new Tasks(api);

async function post(path: string, body: object): Promise<unknown> {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`/api/auth${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

/** What a script may read of an answer. */
async function look(response: Response): Promise<object> {
  const text = await response.text();
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: text && JSON.parse(text),
  };
}

const acts = {
  signUp: (email: string, password: string) => post("/sign-up/email", { email, password, name: email }),
  signOut: () => post("/sign-out", {}),
  token: async () => (await (await fetch("/api/auth/token")).json()).token,
  tokensFetched: async () =>
    performance.getEntriesByType("resource").filter((each) => each.name.endsWith("/api/auth/token")).length,
  send: async (path: string, init: RequestInit) => look(await fetch(api + path, init)),
  pages: async (limit?: number, completed?: boolean): Promise<Task[][]> => {
    let page = await tasks.list({ limit, completed });
    const pages = [page.tasks];
    while (page.next) {
      page = await tasks.follow(page.next);
      pages.push(page.tasks);
    }
    return pages;
  },
  create: tasks.create,
  get: tasks.get,
  replace: tasks.replace,
  update: tasks.update,
  delete: (id: string, version?: number) => tasks.delete(id, version),
  restore: tasks.restore,
  batch: tasks.batch.bind(tasks),
  changes: (since?: string, wait?: number) => tasks.changes(since, wait),
  exportAccount: () => tasks.exportAccount(),
  deleteAccount: () => tasks.deleteAccount(),
  all: async (filter: Filter) => {
    const titles = [];
    for await (const task of tasks.all(filter)) titles.push(task.title);
    return titles;
  },
  conflict: (id: string, version: number) =>
    tasks.update(id, { title: "x" }, version).then(
      () => "changed",
      (error) => error instanceof ConflictError && error.headers.get("ETag"),
    ),
};

type Acts = Record<string, (...parameters: never[]) => Promise<unknown>>;

async function act(name: string, ...parameters: never[]): Promise<object> {
  try {
    return { value: await (acts as Acts)[name]!(...parameters) };
  } catch (error) {
    if (error instanceof TasksError)
      return { problem: error.problem, headers: Object.fromEntries(error.headers), message: error.message };
    return { error: String(error) };
  }
}

Object.assign(window, { act });
