"""Starts the service in other set-ups: with other settings, and with other servers around it.

A set-up is a function with `@set_up(<clauses>)`, see `setups`. It starts services with
`lab.service(<settings>)`, and sends requests with the prober of each.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from httpx2 import Client, Response
from sqlalchemy import URL

from tests.environment import NO_LIMIT, libpq_url
from tests.fuzz.access_log import check_access_log
from tests.fuzz.context import FuzzContext, User
from tests.fuzz.prober import TITLE, Prober, valid
from tests.fuzz.situations import SITUATIONS, Situation, situation
from tests.operations import OPERATIONS
from tests.support import ORIGIN

KEY_SOURCES = {"BETTER_AUTH_SECRET", "BETTER_AUTH_URL", "JWKS_URL"}

NO_LEAK = situation("the log of a service in another set-up", "process.logs.secrets", at_least=10)


@dataclass(frozen=True)
class Service:
    client: Client
    log: Path


class Start(Protocol):
    """Starts a service with these environment variables, and stops it at the end."""

    def __call__(self, environment: dict[str, str]) -> AbstractContextManager[Service]: ...


@dataclass
class Lab:
    """Where set-ups run: a migrated database, an empty folder, and a way to start services."""

    context: FuzzContext
    folder: Path
    start: Start
    secret: str
    """The shared secret of the run."""
    failures: list[str] = field(default_factory=list)
    current: Situation = NO_LEAK

    @contextmanager
    def service(self, database: URL | None = None, /, **settings: str) -> Iterator[Prober]:
        """A service with the shared secret of the run, unless `settings` has another key source."""
        environment = {
            "DATABASE_URL": libpq_url(database or self.context.database),
            "CORS_ORIGINS": ORIGIN,
            "RATE_LIMIT_REQUESTS": NO_LIMIT,
            "RATE_LIMIT_AUTH_FAILURES": NO_LIMIT,
            # Each process has its own keys and windows.
            "WEB_CONCURRENCY": "1",
            **settings,
        }
        if not KEY_SOURCES & settings.keys():
            environment["BETTER_AUTH_SECRET"] = self.secret
        given = " ".join(f"{name}={value}" for name, value in settings.items())
        with self.start(environment) as service:
            start = service.log.stat().st_size
            prober = Prober(
                self.context, service.client, self.current, self.failures, settings=given, log=service.log
            )
            yield prober
        check_access_log(prober, service.log, start)
        self._check_secrets(prober, service.log, environment)

    def _check_secrets(self, prober: Prober, log: Path, environment: dict[str, str]) -> None:
        text = log.read_text("ascii")
        secrets = [*self.context.secrets(), *environment.get("BETTER_AUTH_SECRET", "").split(","), TITLE]
        self.context.met[NO_LEAK.name] += 1
        if any(secret in text for secret in secrets if secret):
            prober.fail("the log contains a secret, or a part of a body", of=NO_LEAK)

    def user(self, **claims: object) -> User:
        """A new user, whose token has these claims."""
        name = f"fuzz-{uuid.uuid4()}"
        return User(name, self.context.mint(name, **claims))


SET_UPS: dict[str, Callable[[Lab], None]] = {}
"""By the name of their situation, in the order in which they run."""


def set_up(*clauses: str, at_least: int = 1) -> Callable[[Callable[[Lab], None]], Callable[[Lab], None]]:
    """Declare a set-up; its function's name is that of its situation.

    `at_least` is how many requests it must have sent.
    """

    def declare(function: Callable[[Lab], None]) -> Callable[[Lab], None]:
        name = function.__name__.replace("_", " ")
        situation(name, *clauses, at_least=at_least)
        SET_UPS[name] = function
        return function

    return declare


def run(lab: Lab, *, stop_at_first: bool = False, only: str = "") -> list[str]:
    """Run all set-ups, or one; the failures, each with its situation and clauses."""
    for name in [only] if only else SET_UPS:
        lab.current = SITUATIONS[name]
        try:
            SET_UPS[name](lab)
        except (Exception, SystemExit) as error:  # A service that does not start is a failure.
            lab.failures.append(f"{name}: {type(error).__name__}: {error}")
        if lab.failures and stop_at_first:
            break
    return lab.failures


def accept_each_operation(prober: Prober, user: User) -> None:
    """Send every operation; those on one task name one that does not exist."""
    for operation in OPERATIONS:
        status = 404 if operation.on_one_task else operation.status
        prober.accept(status, operation.method, operation.url(), **valid(operation, user))


def refuse_each_operation(prober: Prober, status: int, kind: str, token: str | User | None) -> list[Response]:
    """Send every operation; each must get this problem and change nothing."""
    return [prober.refuse(status, kind, each.method, each.url(), **valid(each, token)) for each in OPERATIONS]


def log_lines(prober: Prober, response: Response) -> list[dict[str, Any]]:
    """The log lines of a request, so far."""
    assert prober.log is not None
    request_id = response.headers["X-Request-ID"]
    lines = map(json.loads, prober.log.read_text("ascii").splitlines())
    return [line for line in lines if line.get("request_id") == request_id]
