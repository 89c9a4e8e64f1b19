"""Users who continuously send all six operations and record each outcome.

A user sends one request at a time. After an unknown outcome the user retries, as
clients do, and then no longer writes to the task: a write whose response was lost
may be applied much later and overwrite a newer one.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from tests.chaos.checker import (
    READS,
    Expectations,
    Kind,
    Operation,
    Outcome,
    Violation,
    content,
    marker,
)
from tests.support import SECRET, TASKS
from tools.tokens import mint

USERS = 8
"""Half of them use keep-alive, as a router does; the others open a connection per request."""

TIMEOUT_SECONDS = 10.0
"""Client timeout: longer than any deadline of the service."""

PAUSE = 0.01
RETRY_PAUSE = 0.2
"""Seconds between requests of a user, and before a retry."""

METHODS = {Kind.CREATE: "POST", Kind.REPLACE: "PUT", Kind.UPDATE: "PATCH", Kind.DELETE: "DELETE"}

NOT_SENT = 0
"""Status of a request that was not sent: the connection was refused or closed before."""


@dataclass
class Target:
    """The port to which the router sends requests."""

    port: int


@dataclass(frozen=True)
class Response:
    status: int | None
    body: Any = None
    headers: Message = field(default_factory=Message)
    """Case-insensitive."""


class Connection:
    """One user's HTTP connection. Sends and receives JSON; never raises."""

    def __init__(self, target: Target, user: str, *, keep_alive: bool) -> None:
        self._target = target
        self._keep_alive = keep_alive
        self._http: http.client.HTTPConnection | None = None
        self._headers = {
            "Authorization": f"Bearer {mint(SECRET, user)}",
            "Content-Type": "application/json",
        }

    def send(self, method: str, path: str, body: object = None) -> Response:
        connection = self._connection()
        content = None if body is None else json.dumps(body).encode()
        try:
            if connection.sock is None:
                connection.connect()
            connection.request(method, path, content, self._headers)
        except OSError:
            self.close()
            return Response(NOT_SENT)
        return self._receive(connection)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _connection(self) -> http.client.HTTPConnection:
        if self._http is not None and self._http.port != self._target.port:
            self.close()
        if self._http is None:
            self._http = http.client.HTTPConnection("127.0.0.1", self._target.port, timeout=TIMEOUT_SECONDS)
        return self._http

    def _receive(self, connection: http.client.HTTPConnection) -> Response:
        try:
            response = connection.getresponse()
            text = response.read()
            body = json.loads(text) if text else None
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return Response(None)
        if not self._keep_alive:
            self.close()
        return Response(response.status, body, response.headers)


def list_all(connection: Connection) -> tuple[Response, list[dict[str, Any]]]:
    """The response of the last page, and the tasks of all pages."""
    path, tasks = f"{TASKS}?limit=200", []
    while True:
        response = connection.send("GET", path)
        if response.status != 200:
            return response, []
        tasks += response.body
        link = response.headers.get("Link")
        if link is None:
            return response, tasks
        path = link.partition("<")[2].partition(">")[0]


class User:
    """One user with history, expectations and violations."""

    def __init__(self, name: str, target: Target, seed: str, *, keep_alive: bool) -> None:
        self.name = name
        self.history: list[Operation] = []
        self.violations: list[Violation] = []
        self.connection = Connection(target, name, keep_alive=keep_alive)
        self.expected = Expectations(name)
        self._random = random.Random(f"{seed} {name}")
        self._writable_tasks: list[str] = []
        self._number = 0
        self._recovered_kinds: set[Kind] = set()
        self._recovery_started_at = 0.0

    @property
    def recovered(self) -> bool:
        """Whether every operation has succeeded since the last failure or `expect_recovery`."""
        return len(self._recovered_kinds) == len(Kind)

    def expect_recovery(self) -> None:
        self._recovery_started_at = time.monotonic()
        self._recovered_kinds = set()

    def run(self, stopped: threading.Event, not_paused: threading.Event) -> None:
        while not stopped.is_set():
            for kind in self._random.sample([*Kind], len(Kind)):
                self._perform(kind, stopped, not_paused)
        self.connection.close()

    def _perform(self, kind: Kind, stopped: threading.Event, not_paused: threading.Event) -> None:
        """Send one operation, with retries until its outcome is known."""
        if not self._writable_tasks and kind is not Kind.LIST:
            kind = Kind.CREATE
        task = None if kind in {Kind.CREATE, Kind.LIST} else self._random.choice(self._writable_tasks)
        mark = self._new_marker() if kind in {Kind.CREATE, Kind.REPLACE, Kind.UPDATE} else None
        unknown = missing = False
        while not stopped.is_set():
            not_paused.wait()
            done = self._send(kind, task, mark, unknown)
            missing = done.outcome is Outcome.MISSING
            settled = kind in READS or missing or done.outcome is Outcome.ACKNOWLEDGED
            unknown = unknown or (done.outcome is Outcome.UNKNOWN and kind not in READS)
            stopped.wait(PAUSE if settled else RETRY_PAUSE)
            if settled:
                break
        if task and (unknown or missing or kind is Kind.DELETE):
            self._writable_tasks.remove(task)

    def _send(self, kind: Kind, task: str | None, mark: str | None, retry: bool) -> Operation:
        started_at = time.monotonic()
        response, tasks = self._request(kind, task, mark)
        outcome = _outcome(kind, response, retry)
        done = Operation(
            self.name,
            kind,
            outcome,
            tasks[0]["id"] if kind is Kind.CREATE and tasks else task,
            mark,
            version=tasks[0]["version"] if mark and tasks else None,
            status=response.status,
            retry_after="Retry-After" in response.headers,
            retry_of_unknown=retry,
            started_at=started_at,
            ended=time.monotonic(),
        )
        self._record(done, tasks)
        return done

    def _request(
        self, kind: Kind, task: str | None, mark: str | None
    ) -> tuple[Response, list[dict[str, Any]]]:
        if kind is Kind.LIST:
            return list_all(self.connection)
        path = TASKS if task is None else f"{TASKS}/{task}"
        response = self.connection.send(METHODS.get(kind, "GET"), path, mark and content(mark))
        is_task = response.status in {200, 201}
        return response, [response.body] if is_task else []

    def _record(self, done: Operation, tasks: list[dict[str, Any]]) -> None:
        self.history.append(done)
        self.violations += self.expected.record(done)
        if done.outcome is Outcome.ACKNOWLEDGED:
            if done.kind is Kind.LIST:
                self.violations += self.expected.check_all(tasks)
            else:
                self.violations += [each for task in tasks for each in self.expected.check_one(task)]
            if done.kind is Kind.CREATE and done.task:
                self._writable_tasks.append(done.task)
        if done.outcome is not Outcome.ACKNOWLEDGED:
            self._recovered_kinds = set()
        elif done.started_at >= self._recovery_started_at:
            self._recovered_kinds = {*self._recovered_kinds, done.kind}

    def _new_marker(self) -> str:
        self._number += 1
        return marker(self.name, self._number)


def _outcome(kind: Kind, response: Response, retry: bool) -> Outcome:
    if response.status in {200, 201, 204}:
        return Outcome.ACKNOWLEDGED
    if response.status == 404 and kind is not Kind.CREATE:
        # The first attempt, whose response was lost, deleted the task.
        return Outcome.ACKNOWLEDGED if retry and kind is Kind.DELETE else Outcome.MISSING
    if response.status is None or response.status >= 500:
        return Outcome.UNKNOWN
    return Outcome.REFUSED


class Workload:
    """All users of one scenario."""

    def __init__(self, name: str, target: Target, seed: str, count: int = USERS) -> None:
        self.target = target
        self.users = [User(f"{name}-{n}", target, seed, keep_alive=n % 2 == 0) for n in range(count)]
        self._stopped = threading.Event()
        self._not_paused = threading.Event()
        self._not_paused.set()
        self._threads = [
            threading.Thread(target=user.run, args=(self._stopped, self._not_paused), daemon=True)
            for user in self.users
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Stop sending new requests; requests in flight continue."""
        self._not_paused.clear()

    def resume(self) -> None:
        self._not_paused.set()

    def stop(self) -> None:
        self._stopped.set()
        self._not_paused.set()
        for thread in self._threads:
            thread.join()

    def wait_until_recovered(self, seconds: float) -> float | None:
        """Seconds until every operation has succeeded for every user; None on timeout."""
        started_at = time.monotonic()
        for user in self.users:
            user.expect_recovery()
        while time.monotonic() < started_at + seconds:
            if all(user.recovered for user in self.users):
                return time.monotonic() - started_at
            time.sleep(0.02)
        return None

    @property
    def history(self) -> list[Operation]:
        return [operation for user in self.users for operation in user.history]

    @property
    def violations(self) -> list[Violation]:
        return [violation for user in self.users for violation in user.violations]

    @property
    def statuses(self) -> Counter[str]:
        names = {None: "no answer", NOT_SENT: "not sent"}
        return Counter(names.get(each.status, str(each.status)) for each in self.history)


@contextmanager
def workload(name: str, target: Target, seed: str) -> Iterator[Workload]:
    running = Workload(name, target, seed)
    running.start()
    try:
        yield running
    finally:
        running.stop()
