"""Compares acknowledged operations with the tasks in the API and the database.

Pure functions: no sockets, no clock. Every write derives title, description, tags,
completed and priority from one marker, so a task that mixes two writes is detected.
A marker contains its user and is used for one write and its retries.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

PRIORITIES = ("low", "medium", "high")


class Kind(StrEnum):
    CREATE = "create"
    GET = "get"
    LIST = "list"
    REPLACE = "replace"
    UPDATE = "update"
    DELETE = "delete"


READS = frozenset({Kind.GET, Kind.LIST})


class Outcome(StrEnum):
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """4xx, or never sent: nothing changed."""
    UNKNOWN = "unknown"
    """503 or no response: the write may have been applied, or may be applied later."""
    MISSING = "missing"
    """404 for a task that was acknowledged."""


class Anomaly(StrEnum):
    LOST = "lost"
    WRONG_OWNER = "wrong owner"
    HALF_APPLIED = "half-applied"
    DUPLICATE = "duplicate"
    UNREQUESTED = "unrequested"


@dataclass(frozen=True)
class Operation:
    """A request of a user and its outcome."""

    user: str
    kind: Kind
    outcome: Outcome
    task: str | None = None
    marker: str | None = None
    version: int | None = None
    status: int | None = None
    retry_after: bool = False
    retry_of_unknown: bool = False
    started_at: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class Violation:
    anomaly: Anomaly
    user: str
    task: str
    """The task's ID, or the marker of several tasks."""
    text: str


Task = Mapping[str, Any]
"""A task from the API, or the same columns of a row."""


def marker(user: str, number: int) -> str:
    return f"{user}#{number}"


def owner_of(mark: str) -> str:
    return mark.rpartition("#")[0]


def content(mark: str) -> dict[str, object]:
    """The writable fields derived from a marker."""
    number = int(mark.rpartition("#")[2])
    return {
        "title": mark,
        "description": f"The description of {mark}",
        "tags": [mark, f"{mark} again"],
        "completed": number % 2 == 0,
        "priority": PRIORITIES[number % 3],
    }


def is_consistent(task: Task) -> bool:
    mark = str(task["title"])
    if not mark.rpartition("#")[2].isdecimal():
        return False
    expected = content(mark)
    return expected == {name: task[name] for name in expected}


@dataclass
class KnownTask:
    """An acknowledged task: its last acknowledged state, and those of pending writes.

    A state is a marker, or None if deleted.
    """

    state: str | None
    version: int
    pending: set[str | None] = field(default_factory=set)
    unknown_writes: int = 0

    @property
    def possible(self) -> set[str | None]:
        return {None} if self.state is None else {self.state, *self.pending}


class Expectations:
    """The tasks that one user may see after the recorded operations."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.tasks: dict[str, KnownTask] = {}
        self._unknown_creates: Counter[str] = Counter()
        self._markers: set[str] = set()

    def record(self, operation: Operation) -> list[Violation]:
        """Record one operation; returns a violation for a 404 on a task that must exist."""
        if operation.kind in READS and operation.outcome is not Outcome.MISSING:
            return []
        if operation.marker is not None:
            self._markers.add(operation.marker)
        match operation.outcome:
            case Outcome.ACKNOWLEDGED:
                self._acknowledged(operation)
            case Outcome.UNKNOWN:
                self._unknown(operation)
            case Outcome.MISSING:
                return self._missing(operation)
            case Outcome.REFUSED:
                pass
        return []

    def _acknowledged(self, operation: Operation) -> None:
        assert operation.task is not None
        if operation.kind is Kind.CREATE:
            self.tasks[operation.task] = KnownTask(operation.marker, operation.version or 1)
        elif known := self.tasks.get(operation.task):
            known.state = None if operation.kind is Kind.DELETE else operation.marker
            known.version = operation.version or known.version

    def _unknown(self, operation: Operation) -> None:
        if operation.kind is Kind.CREATE:
            assert operation.marker is not None
            self._unknown_creates[operation.marker] += 1
        elif operation.task in self.tasks:
            known = self.tasks[operation.task]
            known.pending.add(None if operation.kind is Kind.DELETE else operation.marker)
            known.unknown_writes += 1

    def _missing(self, operation: Operation) -> list[Violation]:
        """Reported once: after that the task may be missing."""
        assert operation.task is not None
        known = self.tasks.get(operation.task)
        if known is None or None in known.possible:
            return []
        known.pending.add(None)
        return [self._violation(Anomaly.LOST, operation.task, f"{operation.kind} of {known.state}: 404")]

    def check_one(self, task: Task) -> list[Violation]:
        """Check a task in a response."""
        return [*self._check_owner(task), *self._check_content(str(task["id"]), task)]

    def check_all(self, tasks: Sequence[Task]) -> list[Violation]:
        """Check the complete list of the user's tasks that are not deleted."""
        found = {str(task["id"]): task for task in tasks}
        violations = [each for task in tasks for each in self._check_owner(task)]
        for task_id, known in self.tasks.items():
            if task_id in found:
                violations += self._check_content(task_id, found[task_id])
            elif None not in known.possible:
                violations.append(self._violation(Anomaly.LOST, task_id, f"{known.state} is gone"))
        violations += self._check_unknown_tasks(
            [task for task_id, task in found.items() if task_id not in self.tasks]
        )
        if len(found) < len(tasks):
            violations.append(self._violation(Anomaly.DUPLICATE, "", "a list shows a task twice"))
        return violations

    def _check_owner(self, task: Task) -> list[Violation]:
        if task["user_id"] == self.user and owner_of(str(task["title"])) == self.user:
            return []
        text = f"{task['user_id']} owns {task['title']}"
        return [self._violation(Anomaly.WRONG_OWNER, str(task["id"]), text)]

    def _check_content(self, task_id: str, task: Task) -> list[Violation]:
        known = self.tasks.get(task_id)
        if known is None:
            return []
        if not is_consistent(task):
            return [self._violation(Anomaly.HALF_APPLIED, task_id, f"{dict(task)}")]
        if task["title"] not in known.possible:
            expected = " or ".join(sorted(str(each) for each in known.possible))
            return [self._violation(Anomaly.LOST, task_id, f"{task['title']} instead of {expected}")]
        return self._check_version(task_id, int(task["version"]), known)

    def _check_version(self, task_id: str, version: int, known: KnownTask) -> list[Violation]:
        """Each acknowledged write increments it by one, and each unknown one may have."""
        if version < known.version:
            anomaly = Anomaly.LOST
        elif version > known.version + known.unknown_writes:
            anomaly = Anomaly.UNREQUESTED
        else:
            return []
        text = f"version {version} instead of {known.version} (+{known.unknown_writes})"
        return [self._violation(anomaly, task_id, text)]

    def _check_unknown_tasks(self, tasks: Sequence[Task]) -> list[Violation]:
        """Tasks whose ID is in no response: each needs a create of unknown outcome."""
        violations = [
            self._violation(Anomaly.HALF_APPLIED, str(task["id"]), f"{dict(task)}")
            for task in tasks
            if not is_consistent(task)
        ]
        count = Counter(str(task["title"]) for task in tasks if is_consistent(task))
        for mark, number in count.items():
            allowed = self._unknown_creates[mark]
            if number > allowed and owner_of(mark) == self.user:
                anomaly = Anomaly.DUPLICATE if mark in self._markers else Anomaly.UNREQUESTED
                text = f"{number} more of {mark}, with {allowed} unknown creates"
                violations.append(self._violation(anomaly, mark, text))
        return violations

    def _violation(self, anomaly: Anomaly, task: str, text: str) -> Violation:
        return Violation(anomaly, self.user, task, text)


def check(
    history: Sequence[Operation], api: Mapping[str, Sequence[Task]], rows: Iterable[Task]
) -> list[Violation]:
    """All violations. `api` has each user's list, `rows` the stored rows that are not deleted.

    Users whose list failed are missing from `api`.
    """
    stored: dict[str, list[Task]] = {}
    for row in rows:
        stored.setdefault(str(row["user_id"]), []).append(row)
    violations: list[Violation] = []
    users: dict[str, Expectations] = {}
    for operation in history:
        violations += users.setdefault(operation.user, Expectations(operation.user)).record(operation)
    for user, expected in users.items():
        in_api = expected.check_all(api[user]) if user in api else []
        in_rows = expected.check_all(stored.pop(user, []))
        violations += [*in_api, *in_rows]
    for user, unexpected in stored.items():
        violations += [
            Violation(Anomaly.WRONG_OWNER, user, str(row["id"]), f"{user} owns {row['title']}")
            for row in unexpected
            if owner_of(str(row["title"])) != user
        ]
    return violations


def duplicates_from_retries(history: Iterable[Operation], rows: Iterable[Task]) -> int:
    """How many extra tasks there are because a create was retried and both attempts were applied."""
    created = {
        operation.task: operation.marker
        for operation in history
        if operation.kind is Kind.CREATE and operation.outcome is Outcome.ACKNOWLEDGED
    }
    markers = set(created.values())
    return sum(str(row["id"]) not in created and row["title"] in markers for row in rows)


def distinct(violations: Iterable[Violation]) -> list[Violation]:
    """One per task and anomaly: reads and both comparisons may report the same one."""
    return [*{(each.anomaly, each.user, each.task): each for each in violations}.values()]
