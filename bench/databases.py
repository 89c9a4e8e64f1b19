"""A database and a service for each table size, and users whose tasks lie among those of all others."""

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import URL

from bench import data
from bench.client import TASKS, Client
from bench.targets import running


class Databases:
    """A server with one database per table size, and the services and clients for them."""

    def __init__(self, server: URL, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._secret = secrets.token_hex(32)

    def url(self, size: int) -> URL:
        return self._server.set(database=f"tasks_{size}")

    def create(self, size: int, owner_of: data.OwnerOf) -> None:
        data.execute(self._server, f"CREATE DATABASE {self.url(size).database}")
        with self.serving(size):
            pass
        began = time.monotonic()
        data.load_tasks(self.url(size), size, owner_of)
        progress(f"loaded {size:,} tasks in {time.monotonic() - began:.0f} s")

    @contextmanager
    def serving(self, size: int) -> Iterator[str]:
        """Migrate the database and serve it; yields the URL of the service."""
        with running("service", self.url(size), self._secret, self._folder, workers=1) as service:
            yield service.url

    def serve(self, stack: ExitStack, size: int) -> str:
        return stack.enter_context(self.serving(size))

    def client(self, url: str, user: str) -> Client:
        return Client(url, data.long_lived_token(self._secret, user))

    def task_paths(self, size: int, user: str) -> list[str]:
        """Up to 200 of the user's tasks, at random."""
        sample = "SELECT id FROM tasks WHERE user_id = %s ORDER BY random() LIMIT 200"
        return [f"{TASKS}/{task}" for (task,) in data.execute(self.url(size), sample, user)]


class Placement:
    """Which rows belong to the users that are measured; the others belong to ordinary users in turn."""

    def __init__(self, users: int) -> None:
        self._owners: dict[int, data.Owner] = {}
        self._ordinary = data.round_robin(users)

    def spread(self, owner: data.Owner, count: int, first: int, rows: int) -> None:
        """Give the owner `count` rows, spread evenly over `rows` rows from `first` on."""
        for index in range(count):
            row = first + index * rows // count
            while row in self._owners:
                row += 1
            self._owners[row] = owner

    def __call__(self, number: int) -> data.Owner:
        return self._owners.get(number) or self._ordinary(number)


def progress(message: str) -> None:
    print(f"growth: {message}", file=sys.stderr, flush=True)
