"""The service and its baselines: how each is started, and whether they do the same work."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from bench.client import CHANGE, NEW, TASKS, WrongAnswer
from bench.data import plain_url
from bench.processes import family
from tools import postgres, serve

WORKERS = 2
NO_LIMIT = "1000000/second"
APPS = {
    "service": "main:app",
    "plain": "bench.plain:app",
    "floor": "bench.floor:app",
    "bare": "bench.bare:app",
}

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy that the environment names."""


@dataclass(frozen=True)
class Contestant:
    name: str
    process: subprocess.Popen[bytes]
    url: str

    def workers(self) -> list[int]:
        """The numbers of the processes that answer."""
        return [pid for pid in family(self.process.pid) if pid != self.process.pid]


@contextmanager
def running(
    name: str,
    server: URL,
    secret: str,
    folder: Path,
    *,
    line: URL | None = None,
    workers: int = WORKERS,
    pool: int | None = None,
) -> Iterator[Contestant]:
    """Migrate `server`'s database and serve from it; over `line`, when that is given."""
    port = str(postgres.free_port())
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "DATABASE_URL": plain_url(line or server),
        "DATABASE_URL_UNPOOLED": plain_url(server),
        "BETTER_AUTH_SECRET": secret,
        "HOST": "127.0.0.1",
        "PORT": port,
        "WEB_CONCURRENCY": str(workers),
        "RATE_LIMIT_REQUESTS": NO_LIMIT,
        "RATE_LIMIT_AUTH_FAILURES": NO_LIMIT,
    }
    if pool is not None:
        environment["DB_POOL_SIZE"] = str(pool)
    with serve.service(environment, log=folder / f"{name}-{port}.log", app=APPS[name]) as process:
        yield Contestant(name, process, serve.base_url(environment))


def check_agreement(contestants: Sequence[Contestant], token: str, expired: str) -> None:
    """Raises WrongAnswer unless all answer with the fields and statuses of the first."""
    first, *others = contestants
    wanted = _sample(first, token, expired)
    for other in others:
        for request, answer in _sample(other, token, expired).items():
            if answer != wanted[request]:
                raise WrongAnswer(
                    f"{request}: {other.name} answers {answer}, but {first.name} {wanted[request]}"
                )


Shape = tuple[int, tuple[str, ...]]
"""The status, and the names of a task's fields in alphabetical order."""


def _sample(contestant: Contestant, token: str, expired: str) -> dict[str, Shape]:
    created, task = _send(contestant, "POST", TASKS, token, NEW)
    path = f"{TASKS}/{task['id']}"
    listed, tasks = _send(contestant, "GET", f"{TASKS}?limit=20", token)
    if len(tasks) != 20:
        raise WrongAnswer(f"{contestant.name} lists {len(tasks)} tasks instead of 20")
    read, same = _send(contestant, "GET", path, token)
    changed, after = _send(contestant, "PATCH", path, token, CHANGE)
    if after["title"] != CHANGE["title"]:
        raise WrongAnswer(f"{contestant.name} does not change the title")
    refused = {"no token": None, "malformed": "a.b.c", "expired": expired}
    return {
        "create": (created, _fields(task)),
        "list": (listed, _fields(tasks[0])),
        "get": (read, _fields(same)),
        "patch": (changed, _fields(after)),
        "delete": (_send(contestant, "DELETE", path, token)[0], ()),
        **{f"401 {why}": (_send(contestant, "GET", TASKS, bad)[0], ()) for why, bad in refused.items()},
    }


def _fields(task: dict[str, object]) -> tuple[str, ...]:
    return tuple(sorted(task))


def _send(
    contestant: Contestant, method: str, path: str, token: str | None, body: object = None
) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(contestant.url + path, data, headers, method=method)
    try:
        with _direct.open(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as refusal:
        return refusal.code, None
