// Calls the API with the client that @hey-api/openapi-ts generates, and prints the ID of the new task.
import { baseUrl, token } from "./arguments.js";
import { client } from "./hey_api/client.gen.js";
import { createTask, updateTask, type TaskRead } from "./hey_api/index.js";

client.setConfig({ baseUrl, auth: token });

const { data: created } = await createTask({ body: { title: "Water the plants" }, throwOnError: true });
const { data: updated } = await updateTask({
  path: { task_id: created.id },
  body: { completed: true },
  throwOnError: true,
});
const task: TaskRead = updated;
// @ts-expect-error: a title is text
export const mistake: number = task.title;

console.log(task.id);
