"""The databases that are measured: users, their tasks, and tokens for them."""

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
FILES_TASKS = 100_000
"""So many tasks the load asks for one by one; the others may be deleted."""

Owner = Callable[[int], tuple[str, float]]
"""From a task's number to the id of its user, and the share of that user's tasks that are completed."""


def user_id(number: int) -> str:
    return f"user-{number:06}"


def in_turn(users: int) -> Owner:
    """Each task is the next user's."""
    return lambda number: (user_id(number % users), COMPLETED_SHARE)


def load_tasks(url: URL, tasks: int, owner: Owner, seed: int = 1) -> None:
    """COPY tasks in the order in which they would have been created."""
    with psycopg2.connect(plain_url(url)) as connection:
        connection.cursor().copy_expert(
            "COPY tasks (user_id, id, title, description, completed, completed_at, priority, tags)"
            " FROM STDIN",
            _File(_rows(tasks, owner, random.Random(seed))),
        )
    connection.close()
    settle(url)


class _File(io.RawIOBase):
    """A file to read from that is made while PostgreSQL stores what was read."""

    def __init__(self, rows: Iterator[str]) -> None:
        self._rows = rows

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Some hundred rows, for which psycopg2's sizes of 8 KiB are too small; it takes any."""
        return "".join(islice(self._rows, 500)).encode()


def _rows(tasks: int, owner: Owner, rng: random.Random) -> Iterator[str]:
    began = int(time.time() * 1000) - tasks
    for number in range(tasks):
        user, share = owner(number)
        completed = "t\t2026-01-01T00:00:00Z" if rng.random() < share else "f\t\\N"
        # UUIDv7, RFC 9562, section 5.7: version 7 and variant 2 stand among the random bits.
        value = (began + number) << 80 | 7 << 76 | 2 << 62 | rng.getrandbits(76) & _RANDOM
        yield (
            f"{user}\t{value:032x}\tWater the plants\tThe ones on the balcony too."
            f"\t{completed}\thigh\t{{home,garden}}\n"
        )


_RANDOM = (0xFFF << 64) | (1 << 62) - 1


def settle(url: URL) -> None:
    """Statistics and visibility as they are in a database that has been in use."""
    ask(url, "VACUUM (ANALYZE) tasks")


def ask(url: URL, statement: str, *parameters: object) -> list[tuple[str, ...]]:
    """Run one statement as the superuser, outside any transaction; whatever it returns as text."""
    connection = psycopg2.connect(plain_url(url))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(statement, parameters)
    rows = [tuple(map(str, row)) for row in cursor] if cursor.description else []
    connection.close()
    return rows


def plain_url(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def lasting_token(secret: str, user: str) -> str:
    return mint(secret, user, exp=int(time.time()) + DAY)


def write_files(url: URL, folder: Path, users: int, secret: str) -> list[str]:
    """What load.lua reads: tokens, good and expired, and tasks with the number of their user.

    Returns lines like those of the tasks that are not among them, for deletion.
    """
    names = [user_id(number) for number in range(users)]
    (folder / "tokens").write_text("".join(f"{lasting_token(secret, name)}\n" for name in names))
    past = int(time.time()) - DAY
    (folder / "expired").write_text("".join(f"{mint(secret, name, exp=past)}\n" for name in names))
    rows = ask(
        url, "SELECT substr(user_id, 6)::int + 1, id FROM tasks WHERE deleted_at IS NULL ORDER BY random()"
    )
    lines = [f"{user} {task}\n" for user, task in rows]
    (folder / "tasks").write_text("".join(lines[:FILES_TASKS]))
    return lines[FILES_TASKS:]


def restore_deleted(url: URL) -> None:
    ask(url, "UPDATE tasks SET deleted_at = NULL WHERE deleted_at IS NOT NULL")
    settle(url)
