"""Sends the systematic requests of a fuzz run, and checks what holds for every response.

Schemathesis generates requests at random; probes (see `probes`) send those that follow
from the specification: each limit and its neighbours, each way to forge a token, each
method of each path. Failures are collected with their clauses and a `curl` command.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

import requests
from httpx2 import Client, Response
from schemathesis import Response as CheckedResponse

from tests.fuzz import curl, response_checks
from tests.fuzz.context import FuzzContext, User
from tests.fuzz.situations import Situation, situation
from tests.operations import Operation
from tests.support import ORIGIN, TASKS

Headers = Sequence[tuple[str, str]]
Content = bytes | Iterator[bytes] | None


class Options(TypedDict, total=False):
    """The keyword arguments of `Prober.request`."""

    token: str | User | None
    scheme: str
    headers: Headers
    content: Content
    origin: str | None


TITLE = "Ask the caterer about gluten"
"""Of the tasks in valid requests; never in a log."""

JSON: Headers = (("Content-Type", "application/json"),)


def valid(operation: Operation, token: str | User | None) -> Options:
    """What a valid request of this operation has beside its method and URL."""
    body = operation.body() if operation.body else None
    if body is not None and "title" in body:
        body["title"] = TITLE
    content = None if body is None else json.dumps(body).encode()
    return {"token": token, "content": content, "headers": JSON}


def if_match(request: Options, value: str) -> Options:
    """The request with this precondition."""
    return {**request, "headers": [*JSON, ("If-Match", value)]}


@dataclass(frozen=True)
class Sent:
    """A request whose log line is still to be checked."""

    method: str
    path: str
    status: int
    user_id: str | None
    """Whose token it carried, if it was one user's own."""
    at: float
    """In Unix seconds."""
    milliseconds: float
    """From sending the request to having read the response."""


class Stop(Exception):
    """Ends a probe after its first failure."""


@dataclass
class Prober:
    """One run of the probes against one running service."""

    context: FuzzContext
    client: Client
    current: Situation
    failures: list[str] = field(default_factory=list)
    sent: dict[str, Sent] = field(default_factory=dict)
    """By request ID."""
    settings: str = ""
    """The settings of a service in a set-up of its own, for reports."""
    log: Path | None = None
    """Of a service in a set-up of its own."""
    allowed_origins: Sequence[str | None] = (ORIGIN,)
    stop_at_first: bool = False

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str | User | None = None,
        scheme: str = "Bearer",
        headers: Headers = (),
        content: Content = None,
        origin: str | None = ORIGIN,
    ) -> Response:
        """Send a request and check what holds for every response.

        A user sends their own token; a string is sent as the token; None sends no
        `Authorization` header.
        """
        request_id = uuid.uuid4().hex
        sent_headers = [("X-Request-ID", request_id), *headers]
        if origin is not None:
            sent_headers.append(("Origin", origin))
        if token is not None:
            text = token.token if isinstance(token, User) else token
            sent_headers.append(("Authorization", f"{scheme} {text}".rstrip()))
        at, started = time.time(), time.perf_counter()
        response = self.client.request(
            method, path, headers=sent_headers, content=content, follow_redirects=False
        )
        elapsed = (time.perf_counter() - started) * 1000
        user_id = token.id if isinstance(token, User) else None
        self.sent[request_id] = Sent(method, path, response.status_code, user_id, at, elapsed)
        self.context.calls += 1
        body = content if isinstance(content, bytes) else None
        self.context.coverage.record(
            method, str(response.request.url), response.request.headers, body, response.status_code
        )
        self._check(response, body, origin if origin in self.allowed_origins else None)
        self.expect(
            response.headers.get("X-Request-ID") == request_id, "the request's ID is not kept", response
        )
        return response

    def accept(self, status: int, method: str, path: str, **options: Unpack[Options]) -> Response:
        """Send a request that must get this status."""
        response = self.request(method, path, **options)
        self.met()
        self.expect(
            response.status_code == status, f"the status is {response.status_code} and not {status}", response
        )
        return response

    def refuse(self, status: int, kind: str, method: str, path: str, **options: Unpack[Options]) -> Response:
        """Send a request that must get a problem of this status and type, and change nothing."""
        before = self.context.fingerprint()
        response = self.accept(status, method, path, **options)
        if response.status_code == status and method != "HEAD":
            found = problem_type(response)
            self.expect(found == kind, f"the problem is {found!r} and not {kind!r}", response)
        self.expect(self.context.fingerprint() == before, "a rejected request changed something", response)
        return response

    def expect_errors(self, response: Response, member: str, location: str) -> None:
        """Every error of a 422 is at this location, or at the item of an array there."""
        if response.status_code != 422:
            return
        found = [each.get(member) for each in response.json()["errors"]]
        at_location = all(
            each == location or (location and str(each).startswith(f"{location}/")) for each in found
        )
        self.expect(found and at_location, f"the {member} of the errors is {found}", response)

    def met(self) -> None:
        """Count the situation of the current probe."""
        self.context.met[self.current.name] += 1

    def fail(self, what: str, response: Response | None = None, of: Situation | None = None) -> None:
        """Report a violation of the clauses of the current probe, or of another situation.

        Raises Stop if the run is to stop at the first failure.
        """
        violated = of or self.current
        repeat = f"\n    {self._as_curl(response)}" if response is not None else ""
        settings = f"\n    with {self.settings}" if self.settings else ""
        self.failures.append(f"{violated.name}: {what} [{', '.join(violated.clauses)}]{settings}{repeat}")
        if self.stop_at_first:
            raise Stop

    def _as_curl(self, response: Response) -> str:
        sent = self.sent.get(response.request.headers.get("X-Request-ID", ""))
        return as_curl(response, sent.user_id if sent else None)

    def expect(self, condition: object, otherwise: str, response: Response | None = None) -> None:
        if not condition:
            self.fail(otherwise, response)

    def _check(self, response: Response, content: bytes | None, allowed_origin: str | None) -> None:
        """Check what holds for every response."""
        checked = _checked(response, content)
        headers = response_checks.check_headers(checked, allowed_origin=allowed_origin)
        for problems, of in (
            (headers, HEADERS),
            (response_checks.check_problem(checked), PROBLEM),
            (response_checks.check_timestamps(checked), TIMESTAMPS),
            (response_checks.leaks(checked, self.context.secrets()), NO_LEAK),
        ):
            for problem in problems:
                self.fail(problem, response, of)
        self.context.met[HEADERS.name] += 1
        if response.status_code >= 400:
            self.context.met.update((PROBLEM.name, NO_LEAK.name))
        elif _is_of_tasks(response):
            self.context.met[TIMESTAMPS.name] += 1


HEADERS = situation(
    "the headers of every response", "headers.security", "headers.cache", "cors.allowed", "cors.expose",
    "cors.vary", at_least=1_000,
)  # fmt: skip
PROBLEM = situation("every problem", "problems.media-type", "problems.members", at_least=1_000)
TIMESTAMPS = situation("the times in every response", "task.timestamps", at_least=500)
NO_LEAK = situation("what every response reveals", "problems.no-echo", at_least=1_000)
SEED = situation("the first tasks of a run", "tasks.durable", "tasks.delete.deleted")

PROBES: dict[str, Callable[[Prober], None]] = {}
"""The probes by the name of their situation, in the order in which they run."""


def probe(*clauses: str, at_least: int = 1) -> Callable[[Callable[[Prober], None]], Callable[[Prober], None]]:
    """Declare a probe; its function's name is that of its situation.

    `at_least` is how many requests it must have sent.
    """

    def declare(function: Callable[[Prober], None]) -> Callable[[Prober], None]:
        name = function.__name__.replace("_", " ")
        situation(name, *clauses, at_least=at_least)
        PROBES[name] = function
        return function

    return declare


def as_curl(response: Response, user_id: str | None = None) -> str:
    """The command that repeats the request of this response."""
    request = response.request
    body = request.content if hasattr(request, "_content") else b"(a streamed body)"
    return curl.command(request.method, str(request.url), request.headers.multi_items(), body, user_id)


def _is_of_tasks(response: Response) -> bool:
    return bool(response.content) and str(response.request.url.path).startswith(TASKS)


def problem_type(response: Response) -> str:
    """The last part of a problem's `type`; empty if the response is no problem."""
    try:
        return str(response.json()["type"]).removeprefix("/problems/")
    except (ValueError, TypeError, KeyError):
        return ""


def _checked(response: Response, content: bytes | None) -> CheckedResponse:
    """The response in the form that `response_checks` takes."""
    request = requests.Request(response.request.method, str(response.request.url), data=content).prepare()
    return CheckedResponse(
        status_code=response.status_code,
        headers=_grouped(response),
        content=response.content,
        request=request,
        elapsed=0.0,
        verify=False,
    )


def _grouped(response: Response) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in response.headers.multi_items():
        grouped.setdefault(name.lower(), []).append(value)
    return grouped
