/** What must not compile: each line that ends in `// wrong` is a mistake, and no other line. */
import { Tasks, TasksError } from "./tasks";

export async function mistakes(tasks: Tasks, id: string): Promise<void> {
  await tasks.create({ title: "Water the plants" });
  await tasks.create({ titel: "Water the plants" }); // wrong
  await tasks.create({ description: "The ones on the balcony too." }); // wrong
  await tasks.create({ title: "x", priority: "urgent" }); // wrong
  await tasks.create({ title: "x", user_id: "somebody else" }); // wrong
  await tasks.create({ title: null }); // wrong
  await tasks.replace(id, { completed: true }); // wrong
  await tasks.update(id, { due_at: null });
  await tasks.update(id, { title: null }); // wrong
  await tasks.update(id, { completed: "yes" }); // wrong
  await tasks.batch([{ op: "update", id, if_version: 2, task: { due_at: null } }, { op: "delete", id }], true);
  await tasks.batch([{ op: "update", task: {} }]); // wrong
  await tasks.batch([{ op: "upsert", id }]); // wrong
  await tasks.list({ limit: 2, completed: false });
  await tasks.list({ owner: "somebody else" }); // wrong
  await tasks.list({ limit: "2" }); // wrong
  await tasks.list({ tag: ["home"], priority: ["high", "low"], sort: "-due", q: "bank" });
  await tasks.list({ tag: "home" }); // wrong
  await tasks.list({ sort: "title" }); // wrong
  for await (const each of tasks.all({ due: "none" })) each.title.trim();
  await tasks.update(id, { title: "x" }, 2);
  await tasks.update(id, { title: "x" }, "2"); // wrong
  const task = await tasks.get(id);
  const due: Date = task.due_at; // wrong
  task.tags.map((tag) => tag.toUpperCase());
  task.due_at.slice(0, 10); // wrong
  const { next } = await tasks.list();
  await tasks.follow(next); // wrong
  if (due instanceof TasksError) due.problem.reason.trim(); // wrong
}
