// Calls the API with the client that orval generates, and prints the ID of the new task.
import { token } from "./arguments.js";
import { createTask, updateTask, type TaskRead } from "./orval/client.js";

const signedIn = { headers: { Authorization: `Bearer ${token}` } };

const created = await createTask({ title: "Water the plants" }, signedIn);
if (created.status === 200) throw new Error("the task existed already");
if (created.status !== 201) throw new Error(created.data.detail);
const updated = await updateTask(created.data.id, { completed: true }, signedIn);
if (updated.status !== 200) throw new Error(updated.data.detail);
const task: TaskRead = updated.data;
// @ts-expect-error: a title is text
export const mistake: number = task.title;

console.log(task.id);
