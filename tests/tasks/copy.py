"""A copy of a user's tasks, kept as a client does that follows the changes."""

from dataclasses import dataclass, field
from threading import Event
from typing import Any

from tests.environment import Sql
from tests.support import TASKS, Caller, ok

CHANGES = f"{TASKS}/changes"


@dataclass
class Copy:
    """`position` is where it continues; pages have up to `limit` tasks."""

    caller: Caller
    limit: int = 200
    position: str = "0"
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    restarts: int = 0
    wait: int = 0
    """In seconds."""
    pages: int = 0
    most_restarts: int = 50

    def follow_one_page(self) -> bool:
        """Apply the next response; whether there is more. Begins again if the position has expired."""
        query = f"since={self.position}&limit={self.limit}&wait={self.wait}"
        response = self.caller.get(f"{CHANGES}?{query}")
        self.pages += 1
        if response.status_code == 410:
            self.position, self.tasks = "0", {}
            self.restarts += 1
            assert self.restarts < self.most_restarts, "it begins again and again"
            return True
        page = ok(response)
        for task in page["tasks"]:
            if task["deleted_at"] is None:
                self.tasks[task["id"]] = task
            else:
                self.tasks.pop(task["id"], None)
        self.position = page["position"]
        return bool(page["more"])

    def follow(self) -> None:
        """To the end."""
        while self.follow_one_page():
            pass

    def follow_until(self, written: Event) -> None:
        """Again and again, and to the end once everything is written."""
        while not written.is_set():
            self.follow_one_page()
        self.follow()


def purge_trash(sql: Sql, user_id: str) -> None:
    """As `python -m purge` does it, but of everything in the trash, and without its process."""
    sql("BEGIN")
    sql("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", user_id)
    sql(
        "WITH gone AS (DELETE FROM tasks WHERE user_id = %s AND deleted_at IS NOT NULL RETURNING seq)"
        " UPDATE feeds SET purged_seq = greatest(purged_seq, (SELECT max(seq) FROM gone))"
        " WHERE user_id = %s AND EXISTS (SELECT FROM gone)",
        user_id,
        user_id,
    )
    sql("COMMIT")


def live_tasks(caller: Caller) -> dict[str, dict[str, Any]]:
    """The tasks of the user as the list has them."""
    found: dict[str, dict[str, Any]] = {}
    path: str | None = f"{TASKS}?limit=200&sort=updated"
    while path:
        response = caller.get(path)
        found |= {task["id"]: task for task in response.json()}
        link = response.links.get("next")
        path = link["url"] if link else None
    return found
