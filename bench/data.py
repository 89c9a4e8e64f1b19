"""Test data for the benchmarks: users, their tasks, and tokens."""

import io
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psycopg2
from sqlalchemy import URL

from tools.tokens import mint

DAY = 86_400
COMPLETED_SHARE = 0.3
LOAD_TASKS = 100_000
"""Number of tasks that the load test reads and updates; the remaining tasks may be deleted."""

DUE_WEEK = "due_from=2030-02-04T00:00:00Z&due_before=2030-02-11T00:00:00Z"
"""Parameters of the list: one of the weeks in which tasks are due."""

_FIRST_DUE = datetime(2030, 1, 1, tzinfo=UTC)
_DUE_HOURS = 10_007
"""The range of the due dates: about 60 weeks. A prime, so that any multiplier visits every hour."""


class Owner(NamedTuple):
    """A user, and how that user's tasks are."""

    user: str
    completed: float = COMPLETED_SHARE
    """The fraction of the tasks that are completed."""
    deleted: bool = False
    undated: int | None = None
    """The oldest tasks, this many, have no due date; with None, every fourth task."""


OwnerOf = Callable[[int], Owner]
"""Maps a task number to its owner."""


def user_id(number: int) -> str:
    return f"user-{number:06}"


def round_robin(users: int) -> OwnerOf:
    """Assigns tasks to the users in turn."""
    return lambda number: Owner(user_id(number % users))


def load_tasks(url: URL, tasks: int, owner_of: OwnerOf, seed: int = 1) -> None:
    """Load tasks with COPY, in order of creation.

    With their positions: the trigger that takes them would update the feed of a user once per task,
    and a transaction cannot remove the row versions that it has replaced itself.
    """
    with psycopg2.connect(url_string(url)) as connection:
        cursor = connection.cursor()
        cursor.copy_expert(
            "COPY tasks (user_id, id, title, description, completed, completed_at, priority, due_at, tags,"
            " created_at, updated_at, deleted_at, seq, search_title, search_description) FROM STDIN",
            _RowStream(_rows(tasks, owner_of, random.Random(seed))),
        )
        cursor.execute(
            "INSERT INTO feeds (user_id, seq, live_tasks)"
            " SELECT user_id, max(seq), count(*) FILTER (WHERE deleted_at IS NULL)"
            " FROM tasks GROUP BY user_id"
        )
        # A feed begins with the time of its creation. These can be followed from their first task.
        cursor.execute("UPDATE feeds SET purged_seq = 0")
    connection.close()
    vacuum(url)


class _RowStream(io.RawIOBase):
    """A readable file that generates rows on demand, so memory use does not grow with the table."""

    def __init__(self, rows: Iterator[str]) -> None:
        self._rows = rows

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to 500 rows. psycopg2 asks for 8 KiB, but accepts larger reads, which are faster."""
        return "".join(islice(self._rows, 500)).encode()


def _rows(tasks: int, owner_of: OwnerOf, rng: random.Random) -> Iterator[str]:
    """A user's tasks have the same values at every table size, because these follow from `seq` alone."""
    began = int(time.time() * 1000) - tasks
    last_seq: Counter[str] = Counter()
    for number in range(tasks):
        owner = owner_of(number)
        last_seq[owner.user] += 1
        seq = last_seq[owner.user]
        # UUIDv7 (RFC 9562, section 5.7): timestamp, version 7, variant 2 and random bits.
        value = (began + number) << 80 | 7 << 76 | 2 << 62 | rng.getrandbits(76) & _RANDOM_BITS
        created = datetime.fromtimestamp((began + number) / 1000, UTC).isoformat()
        completed = f"t\t{created}" if seq * 37 % 100 < owner.completed * 100 else f"f\t{_NULL}"
        dated = seq % 4 if owner.undated is None else seq > owner.undated
        due = (_FIRST_DUE + timedelta(hours=seq * 7_919 % _DUE_HOURS)).isoformat() if dated else _NULL
        yield (
            f"{owner.user}\t{value:032x}\tWater the plants\tThe ones on the balcony too."
            f"\t{completed}\t{_PRIORITIES[seq % 3]}\t{due}\t{{home,garden}}"
            f"\t{created}\t{created}\t{created if owner.deleted else _NULL}\t{seq}"
            "\twater the plants\tthe ones on the balcony too.\n"
        )


_NULL = "\\N"
_PRIORITIES = ("low", "medium", "high")
_RANDOM_BITS = (0xFFF << 64) | (1 << 62) - 1


def vacuum(url: URL) -> None:
    """Update statistics and the visibility map, as autovacuum does in a database in use."""
    execute(url, "VACUUM (ANALYZE) tasks, feeds")


def execute(url: URL, statement: str, *parameters: object) -> list[tuple[str, ...]]:
    """Run one statement in autocommit mode as the superuser; returns all rows with text values."""
    connection = psycopg2.connect(url_string(url))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(statement, parameters)
    rows = [tuple(map(str, row)) for row in cursor] if cursor.description else []
    connection.close()
    return rows


def url_string(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def long_lived_token(secret: str, user: str) -> str:
    return mint(secret, user, exp=int(time.time()) + DAY)


def write_load_files(url: URL, folder: Path, users: int, secret: str) -> list[str]:
    """Write the files that load.lua reads: valid and expired tokens, and tasks with their user's number.

    Returns the lines of the tasks beyond LOAD_TASKS, for deletion.
    """
    names = [user_id(number) for number in range(users)]
    (folder / "tokens").write_text("".join(f"{long_lived_token(secret, name)}\n" for name in names))
    past = int(time.time()) - DAY
    (folder / "expired").write_text("".join(f"{mint(secret, name, exp=past)}\n" for name in names))
    rows = execute(
        url, "SELECT substr(user_id, 6)::int + 1, id FROM tasks WHERE deleted_at IS NULL ORDER BY random()"
    )
    lines = [f"{user} {task}\n" for user, task in rows]
    (folder / "tasks").write_text("".join(lines[:LOAD_TASKS]))
    return lines[LOAD_TASKS:]


def write_versions(url: URL, folder: Path, tasks: int) -> None:
    """Write a file with some tasks and their current versions, for conditional changes."""
    rows = execute(
        url,
        "SELECT substr(user_id, 6)::int + 1, id, version FROM tasks WHERE deleted_at IS NULL"
        " ORDER BY random() LIMIT %s",
        tasks,
    )
    (folder / "versions").write_text("".join(f"{user} {task} {version}\n" for user, task, version in rows))


def delete(url: URL, lines: Sequence[str]) -> None:
    """Mark the tasks in these lines of a file as deleted."""
    ids = [line.split()[1] for line in lines]
    execute(url, "UPDATE tasks SET deleted_at = now() WHERE id = ANY(%s::uuid[])", ids)


def restore_deleted(url: URL) -> None:
    execute(url, "UPDATE tasks SET deleted_at = NULL WHERE deleted_at IS NOT NULL")
    vacuum(url)
