"""The database that is measured: many users, many tasks, and the files that say whose they are."""

import io
import random
import time
from pathlib import Path
from uuid import UUID

import psycopg2
from sqlalchemy import URL

from tools.tokens import mint

DAY = 86_400
FILES_TASKS = 400_000
"""So many tasks the load asks for one by one."""


def user_id(number: int) -> str:
    return f"user-{number:06}"


def load_tasks(url: URL, users: int, tasks: int, seed: int = 1) -> None:
    """COPY tasks of users in turn, in the order in which they would have been created."""
    rng = random.Random(seed)
    began = int(time.time() * 1000) - tasks
    with psycopg2.connect(url.render_as_string(hide_password=False)) as connection:
        cursor = connection.cursor()
        for first in range(0, tasks, 50_000):
            rows = io.StringIO()
            for number in range(first, min(tasks, first + 50_000)):
                done = rng.random() < 0.3
                rows.write(_row(number % users, _uuid7(began + number, rng), done))
            rows.seek(0)
            cursor.copy_expert(
                "COPY tasks (user_id, id, title, description, completed, completed_at, priority, tags)"
                " FROM STDIN",
                rows,
            )
    _settle(url)


def _row(user: int, task: UUID, done: bool) -> str:
    completed = "t\t2026-01-01T00:00:00Z" if done else "f\t\\N"
    texts = "Water the plants\tThe ones on the balcony too."
    return f"{user_id(user)}\t{task}\t{texts}\t{completed}\thigh\t{{home,garden}}\n"


def _uuid7(milliseconds: int, rng: random.Random) -> UUID:
    """RFC 9562, section 5.7."""
    value = milliseconds << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62)
    return UUID(int=value)


def _settle(url: URL) -> None:
    """Statistics and visibility as they are in a database that has been in use."""
    connection = psycopg2.connect(url.render_as_string(hide_password=False))
    connection.autocommit = True
    connection.cursor().execute("VACUUM (ANALYZE) tasks")
    connection.close()


def write_files(url: URL, folder: Path, users: int, secret: str) -> None:
    """What load.lua reads: a token for each user, and tasks with the number of their user."""
    expires = int(time.time()) + DAY
    tokens = (mint(secret, user_id(number), exp=expires) for number in range(users))
    (folder / "tokens").write_text("".join(f"{token}\n" for token in tokens))
    with psycopg2.connect(url.render_as_string(hide_password=False)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT user_id, id::text FROM tasks ORDER BY random() LIMIT %s", (FILES_TASKS,))
        lines = (f"{int(user.rpartition('-')[2]) + 1} {task}\n" for user, task in cursor)
        (folder / "tasks").write_text("".join(lines))
