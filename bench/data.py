"""Test data for the benchmarks: users, their tasks, and tokens."""

import io
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import psycopg2
from sqlalchemy import URL

from tools.tokens import mint

DAY = 86_400
COMPLETED_SHARE = 0.3
LOAD_TASKS = 100_000
"""Number of tasks that the load test reads and updates; the remaining tasks may be deleted."""

Owner = Callable[[int], tuple[str, float]]
"""Maps a task number to its user ID and the fraction of that user's tasks that are completed."""


def user_id(number: int) -> str:
    return f"user-{number:06}"


def round_robin(users: int) -> Owner:
    """Assigns tasks to the users in turn."""
    return lambda number: (user_id(number % users), COMPLETED_SHARE)


def load_tasks(url: URL, tasks: int, owner: Owner, seed: int = 1) -> None:
    """Load tasks with COPY, in order of creation."""
    with psycopg2.connect(url_string(url)) as connection:
        connection.cursor().copy_expert(
            "COPY tasks (user_id, id, title, description, completed, completed_at, priority, tags)"
            " FROM STDIN",
            _RowStream(_rows(tasks, owner, random.Random(seed))),
        )
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


def _rows(tasks: int, owner: Owner, rng: random.Random) -> Iterator[str]:
    began = int(time.time() * 1000) - tasks
    for number in range(tasks):
        user, share = owner(number)
        completed = "t\t2026-01-01T00:00:00Z" if rng.random() < share else "f\t\\N"
        # UUIDv7 (RFC 9562, section 5.7): timestamp, version 7, variant 2 and random bits.
        value = (began + number) << 80 | 7 << 76 | 2 << 62 | rng.getrandbits(76) & _RANDOM_BITS
        yield (
            f"{user}\t{value:032x}\tWater the plants\tThe ones on the balcony too."
            f"\t{completed}\thigh\t{{home,garden}}\n"
        )


_RANDOM_BITS = (0xFFF << 64) | (1 << 62) - 1


def vacuum(url: URL) -> None:
    """Update statistics and the visibility map, as autovacuum does in a database in use."""
    execute(url, "VACUUM (ANALYZE) tasks")


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


def restore_deleted(url: URL) -> None:
    execute(url, "UPDATE tasks SET deleted_at = NULL WHERE deleted_at IS NOT NULL")
    vacuum(url)
