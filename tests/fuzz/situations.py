"""The situations that a fuzz run must meet, and the clauses that each of them proves.

A check that never met its situation proves nothing, so a run fails if a situation was
met less often than `at_least`. `OUT_OF_SIGHT` names the clauses that no request and no
log line of this run can show, with the reason; a test fails if a clause is in neither.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Situation:
    name: str
    clauses: tuple[str, ...]
    at_least: int


SITUATIONS: dict[str, Situation] = {}
"""By name, in the order in which they were declared."""


def situation(name: str, *clauses: str, at_least: int = 1) -> Situation:
    """Declare a situation. Raises ValueError if the name is taken or no clause is given."""
    if name in SITUATIONS or not clauses:
        raise ValueError(f"a situation needs a name of its own and a clause: {name}")
    declared = Situation(name, clauses, at_least)
    SITUATIONS[name] = declared
    return declared


def unmet(met: Mapping[str, int], situations: Iterable[Situation]) -> Iterator[str]:
    """The situations that were met too rarely, with both counts."""
    for each in situations:
        if met.get(each.name, 0) < each.at_least:
            yield (
                f"{each.name}: met {met.get(each.name, 0)} times, at least {each.at_least} expected"
                f" [{', '.join(each.clauses)}]"
            )


def report(met: Mapping[str, int], situations: Iterable[Situation]) -> str:
    """A Markdown table of situations, with how often each was met."""
    lines = ["| situation | clauses | met | at least |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| {each.name} | {', '.join(each.clauses)} | {met.get(each.name, 0)} | {each.at_least} |"
        for each in situations
    ]
    return "\n".join(lines)


_PROCESS = "needs a process of its own: tests/process"
_CONNECTION = "is enforced by gunicorn's parser and protocol: tests/hostile and tests/process"
_PURGE = "a command, not a request: tests/process/test_purge.py"
_INTERNAL = "counts messages and threads inside the service: tests/database"
_MIGRATIONS = "is about migrations: tests/database/test_migrations.py"
_LARGE = "needs more tasks than a fuzz has: tests/tasks/test_account.py"
_TOOLS = "is about tools that read the document: tests/contract_tools"

OUT_OF_SIGHT: Mapping[str, str] = {
    "auth.jwks.refresh": "takes four minutes: tests/auth/test_published_keys.py",
    "auth.signed-out": "needs a session that ends: tests/better_auth",
    "limits.memory": "needs more users than a window table holds: tests/auth/test_rate_limits.py",
    "tasks.round-trip": _INTERNAL,
    "tasks.one-hop": _INTERNAL,
    "http.unread-body": _CONNECTION,
    "http.timeouts.": _CONNECTION,
    "http.unread-answer": _CONNECTION,
    "http.pipelining": _CONNECTION,
    "http.headers-limit": _CONNECTION,
    "http.host": _CONNECTION,
    "http.transfer-coding": _CONNECTION,
    "http.pieces": _CONNECTION,
    "http.malformed-framing": _CONNECTION,
    "problems.http-exception": "is about routes that the service does not have: tests/http/test_problems.py",
    "health.live.stuck": "needs threads that are all stuck: tests/database/test_hung_connections.py",
    "health.ready.once": "is counted in PostgreSQL: tests/http/test_health.py",
    "contract.lint": _TOOLS,
    "contract.clients": _TOOLS,
    "contract.fuzz": "is this run with default settings: tests/contract_tools",
    "process.settings": "is about the start of the service: tests/test_settings.py",
    "process.database-absent": _PROCESS,
    "process.tls": "is about settings: tests/test_settings.py",
    "process.logs.prompt": "is about the time of writing: tests/http/test_logs.py",
    "process.logs.trace": _PROCESS,
    "process.tracing": _PROCESS,
    "process.stop": _PROCESS,
    "process.connections": _PROCESS,
    "process.token": _PROCESS,
    "schema.role.created": _MIGRATIONS,
    "changes.wait.free": _INTERNAL,
    "schema.role.watcher": "is about a role that no request has: tests/database/test_schema.py",
    "problems.pool.reads": _INTERNAL,
    "problems.pool.writes": _INTERNAL,
    "schema.scope": _INTERNAL,
    "schema.prepared": _INTERNAL,
    "schema.keys": _INTERNAL,
    "account.erase.at-once": _LARGE,
    "account.export.incomplete": "needs a database that fails in the middle: tests/process/test_export.py",
    "schema.role.eraser": "is about a role that no request has: tests/database/test_schema.py",
    "purge.tasks": _PURGE,
    "purge.keys": _PURGE,
    "purge.batches": _PURGE,
    "purge.output": _PURGE,
    "tasks.create.key.bound": "needs 10,000 changes of a user: tests/tasks/test_retries.py",
    "schema.write-lock": _INTERNAL,
    "schema.role.maintenance": "is about a role that no request has: tests/database/test_schema.py",
    "schema.feed.order": "needs concurrent readers of positions: tests/database/test_feed.py",
    "schema.feed.previous-version": "needs the previous version: tests/database/test_feed.py",
    "schema.migrations.": _MIGRATIONS,
    "schema.url": "is about settings: tests/test_settings.py and tests/process/test_procfile.py",
}
"""Why a clause, or all clauses that begin like this, have no situation."""
