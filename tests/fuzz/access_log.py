"""Compares the access log of a service with the requests that a prober has sent to it."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.fuzz.prober import Prober, Sent
from tests.fuzz.routes import route_of
from tests.support import wait_until

LATEST_SECONDS = 60
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")


def check_access_log(prober: Prober, log: Path, start: int = 0) -> dict[str, dict[str, Any]]:
    """Each request has exactly one line, with exactly the specified members; the lines by request ID.

    The lines of the service are behind the first `start` bytes of the log.
    """
    # A line is written some time after its response. One that never comes is reported below.
    with suppress(AssertionError):
        wait_until(
            lambda: prober.sent.keys() <= _logged(log, start).keys(), "a request has no line in the log"
        )
    lines = _logged(log, start)
    right: dict[str, dict[str, Any]] = {}
    for request_id, sent in prober.sent.items():
        found = lines.get(request_id, [])
        if len(found) != 1:
            prober.fail(f"{sent.method} {sent.path} has {len(found)} lines in the log")
            continue
        for problem in _wrong(found[0], sent):
            prober.fail(f"the log line of {sent.method} {sent.path} {problem}")
        right[request_id] = found[0]
    return right


def _logged(log: Path, start: int) -> dict[str, list[dict[str, Any]]]:
    """The log lines of requests by request ID."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for text in log.read_bytes()[start:].decode("ascii").splitlines():
        line = json.loads(text)
        if line["logger"] == "access":
            lines.setdefault(line["request_id"], []).append(line)
    return lines


def _wrong(line: dict[str, Any], sent: Sent) -> Iterator[str]:
    expected = {
        "level": "INFO", "message": "request", "method": sent.method, "status": sent.status,
        "route": _route(sent), "user_id": _known_user(sent, line.get("user_id")),
    }  # fmt: skip
    for name, value in expected.items():
        given = {name: line[name]} if name in line else {}
        if given != ({} if value is None else {name: value}):
            yield f"has {given or 'no ' + name} and not the {name} {value!r}"
    if line["duration_ms"] <= 0:
        yield f"has the duration {line['duration_ms']} ms"
    if not _TIME.fullmatch(line["time"]) or not _is_near(line["time"], sent.at):
        yield f"has the time {line['time']}"
    unknown = line.keys() - {*expected, "time", "logger", "request_id", "duration_ms"}
    if unknown:
        yield f"has unknown members: {', '.join(sorted(unknown))}"


def _is_near(time: str, sent_at: float) -> bool:
    """Whether the time is not before the request, nor long after it."""
    return -1 <= datetime.fromisoformat(time).timestamp() - sent_at <= LATEST_SECONDS


def _route(sent: Sent) -> str | None:
    """The route, unless the request was a preflight: those are answered before routing."""
    is_preflight = sent.method == "OPTIONS" and sent.status in {204, 400}
    return None if is_preflight else route_of(sent.path)


def _known_user(sent: Sent, logged: str | None) -> str | None:
    """The user of a request that was authenticated: one for an operation on tasks."""
    if sent.status == 503 and logged is None:
        return None  # The keys that verify the token may be unavailable.
    authenticated = (_route(sent) or "").startswith("/api/") and sent.status not in {401, 405}
    return sent.user_id if authenticated else None
