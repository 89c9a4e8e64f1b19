"""Benchmark targets: the service and three reference applications, how to start them and compare them."""

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

from bench.client import CHANGE, NEW, TASKS, UnexpectedResponse
from bench.data import url_string
from bench.processes import process_tree
from tools import postgres, serve

WORKERS = 2
NO_LIMIT = "1000000/second"
APPS = {
    "service": "main:app",
    "tutorial": "bench.tutorial_app:app",
    "raw-asgi": "bench.raw_asgi_app:app",
    "minimal": "bench.minimal_app:app",
}

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Ignores HTTP_PROXY and similar variables: the targets are on loopback."""


@dataclass(frozen=True)
class Target:
    name: str
    process: subprocess.Popen[bytes]
    url: str

    def workers(self) -> list[int]:
        """Process IDs of the gunicorn workers."""
        return [pid for pid in process_tree(self.process.pid) if pid != self.process.pid]


@contextmanager
def running(
    name: str,
    server: URL,
    secret: str,
    folder: Path,
    *,
    via: URL | None = None,
    workers: int = WORKERS,
    pool: int | None = None,
) -> Iterator[Target]:
    """Migrate the database of `server`, then run the target on it, through the proxy `via` if given."""
    port = str(postgres.free_port())
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "DATABASE_URL": url_string(via or server),
        "DATABASE_URL_UNPOOLED": url_string(server),
        "BETTER_AUTH_SECRET": secret,
        "HOST": "127.0.0.1",
        "PORT": port,
        "WEB_CONCURRENCY": str(workers),
        "RATE_LIMIT_REQUESTS": NO_LIMIT,
        "RATE_LIMIT_AUTH_FAILURES": NO_LIMIT,
        "MAX_TASKS_PER_USER": "100000",
    }
    if pool is not None:
        environment["DB_POOL_SIZE"] = str(pool)
    with serve.service(environment, log=folder / f"{name}-{port}.log", app=APPS[name]) as process:
        yield Target(name, process, serve.base_url(environment))


def check_agreement(targets: Sequence[Target], token: str, expired: str) -> None:
    """Raises UnexpectedResponse unless all targets return the same statuses and fields as the first."""
    first, *others = targets
    expected = _sample(first, token, expired)
    for other in others:
        for request, shape in _sample(other, token, expired).items():
            if shape != expected[request]:
                raise UnexpectedResponse(
                    f"{request}: {other.name} returns {shape}, {first.name} {expected[request]}"
                )


Shape = tuple[int, tuple[str, ...]]
"""The status and the sorted field names of the task."""


def _sample(target: Target, token: str, expired: str) -> dict[str, Shape]:
    created, task = _send(target, "POST", TASKS, token, NEW)
    path = f"{TASKS}/{task['id']}"
    listed, tasks = _send(target, "GET", f"{TASKS}?limit=20", token)
    if len(tasks) != 20:
        raise UnexpectedResponse(f"{target.name} returns {len(tasks)} tasks instead of 20")
    read, same = _send(target, "GET", path, token)
    updated, after = _send(target, "PATCH", path, token, CHANGE)
    if after["title"] != CHANGE["title"]:
        raise UnexpectedResponse(f"{target.name} does not update the title")
    rejected = {"no token": None, "malformed": "a.b.c", "expired": expired}
    return {
        "create": (created, _fields(task)),
        "list": (listed, _fields(tasks[0])),
        "get": (read, _fields(same)),
        "patch": (updated, _fields(after)),
        "delete": (_send(target, "DELETE", path, token)[0], ()),
        **{f"401 {why}": (_send(target, "GET", TASKS, bad)[0], ()) for why, bad in rejected.items()},
    }


def _fields(task: dict[str, object]) -> tuple[str, ...]:
    return tuple(sorted(task))


def _send(target: Target, method: str, path: str, token: str | None, body: object = None) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(target.url + path, data, headers, method=method)
    try:
        with _opener.open(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, None
