"""A copy of a user's tasks, kept as a client does that follows the changes."""

from dataclasses import dataclass, field
from typing import Any

from tests.support import TASKS, Caller, ok

CHANGES = f"{TASKS}/changes"
MOST_RESTARTS = 50


@dataclass
class Copy:
    """`position` is where it continues; pages have up to `limit` tasks."""

    caller: Caller
    limit: int = 200
    position: str = "0"
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    restarts: int = 0

    def follow_one_page(self) -> bool:
        """Apply the next response; whether there is more. Begins again if the position has expired."""
        response = self.caller.get(f"{CHANGES}?since={self.position}&limit={self.limit}")
        if response.status_code == 410:
            self.position, self.tasks = "0", {}
            self.restarts += 1
            assert self.restarts < MOST_RESTARTS, "it begins again and again"
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

    @property
    def seq(self) -> int:
        return int(self.position.partition("-")[0])


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
