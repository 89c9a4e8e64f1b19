"""Probes of deleted tasks: the trash, and restoring."""

from typing import Any

from tests.fuzz.prober import JSON, Prober, probe, valid
from tests.operations import OPERATIONS, RESTORE
from tests.support import TASKS

CREATE = next(each for each in OPERATIONS if each.status == 201)
CHANGED = {"version", "updated_at", "deleted_at"}
"""By deleting and restoring a task."""


def _ids(prober: Prober, query: str) -> list[str]:
    response = prober.accept(200, "GET", f"{TASKS}?limit=200&{query}", token=prober.context.owner)
    return [task["id"] for task in response.json()]


@probe("tasks.restore.restored", "tasks.restore.again", "task.version", "http.if-match", at_least=13)
def a_deleted_task_that_is_restored(prober: Prober) -> None:
    context = prober.context
    owner = context.owner
    task: dict[str, Any] = prober.accept(201, "POST", TASKS, **valid(CREATE, owner)).json()
    path, url = f"{TASKS}/{task['id']}", RESTORE.url(task["id"])
    before = context.feed(owner)
    for tag in (None, '"1"'):
        again = prober.accept(200, "POST", url, token=owner, headers=_if_match(tag))
        prober.expect(again.json() == task, "restoring a task that is not deleted changed it", again)
    prober.expect(context.feed(owner) == before, "restoring a task that is not deleted moved the feed")
    prober.refuse(412, "precondition-failed", "POST", url, token=owner, headers=_if_match('"2"'))
    prober.accept(204, "DELETE", path, token=owner)
    prober.expect(task["id"] in _ids(prober, "deleted=true"), "a deleted task is not in the trash")
    prober.refuse(412, "precondition-failed", "POST", url, token=owner, headers=_if_match('"2"'))
    for tag in (None, "*", '"1"'):
        prober.refuse(404, "not-found", "POST", url, token=context.stranger, headers=_if_match(tag))
    deleted = context.feed(owner)
    response = prober.accept(200, "POST", url, token=owner, headers=_if_match('"1"'))
    restored = response.json()
    prober.expect((restored["version"], restored["deleted_at"]) == (2, None), "it is not restored", response)
    prober.expect(restored["updated_at"] > task["updated_at"], "updated_at did not move on", response)
    kept = {name: value for name, value in restored.items() if name not in CHANGED}
    prober.expect(kept.items() <= task.items(), "restoring changed another field", response)
    after = context.feed(owner)
    prober.expect(deleted and after and after.seq == deleted.seq + 1, "the restore took no position")
    read = prober.accept(200, "GET", path, token=owner)
    prober.expect(read.json() == restored, "the task is another than the one that was restored", read)
    prober.expect(task["id"] in _ids(prober, "sort=-updated"), "a restored task is in no list")
    prober.expect(task["id"] not in _ids(prober, "deleted=true"), "a restored task is in the trash")


def _if_match(tag: str | None) -> list[tuple[str, str]]:
    return [*JSON] if tag is None else [("If-Match", tag)]
