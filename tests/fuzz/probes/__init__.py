"""Systematic requests, derived from the specification, for every run of the contract fuzz.

Each module probes one part of the contract. A new clause gets its probe here: a function
with `@probe(<clauses>)` that sends requests with `prober.accept` and `prober.refuse`.
"""

import json
from collections.abc import Callable, Iterator

from httpx2 import Client

from tests.factories import full_task, new_task
from tests.fuzz.context import FuzzContext, User
from tests.fuzz.prober import PROBES, SEED, Prober, Stop
from tests.fuzz.probes import (
    account,
    batch,
    bodies,
    changes,
    database,
    headers,
    isolation,
    lists,
    log,
    paths,
    preconditions,
    retries,
    tokens,
    trash,
    values,
)
from tests.fuzz.situations import SITUATIONS
from tests.support import TASKS

MODULES = (
    tokens,
    isolation,
    lists,
    paths,
    values,
    preconditions,
    retries,
    trash,
    account,
    changes,
    batch,
    bodies,
    headers,
    database,
    log,
)
"""In the order in which they run: the log of all other requests comes last."""
TASKS_OF_OWNER, TASKS_OF_STRANGER, TASKS_OF_HOARDER = 120, 5, 60
"""The owner has more than two pages of the default size."""


def run(context: FuzzContext, client: Client, *, stop_at_first: bool = False, only: str = "") -> list[str]:
    """Run all probes, or one, against one service; the failures, each with its situation and clauses."""
    prober = Prober(context, client, SEED, stop_at_first=stop_at_first)
    for name, function in (("", seed), *in_order()):
        if only and name not in {"", only}:
            continue
        prober.current = SITUATIONS.get(name, SEED)
        try:
            function(prober)
        except Stop:
            break
        except Exception as error:  # A response that a probe cannot handle is a failure.
            prober.stop_at_first = False
            prober.fail(f"{type(error).__name__}: {error}")
        if prober.failures and (stop_at_first or function is seed):
            break
    return prober.failures


def in_order() -> Iterator[tuple[str, Callable[[Prober], None]]]:
    for module in MODULES:
        yield from ((name, each) for name, each in PROBES.items() if each.__module__ == module.__name__)


def seed(prober: Prober) -> None:
    """Create tasks through the API: of both users, completed, deleted, and some very large."""
    context, client = prober.context, prober.client
    for number in range(TASKS_OF_OWNER):
        task = _create(client, context.owner, full_task() if number % 3 else new_task())
        if number % 10 == 0:
            _send(client, context.owner, "DELETE", f"{TASKS}/{task}", None)
    for _ in range(TASKS_OF_STRANGER):
        _create(client, context.stranger, new_task())
    for _ in range(TASKS_OF_HOARDER):
        _create(client, context.hoarder, new_task(description="\u7dca" * 5_000))
    prober.met()
    live = context.query(
        "SELECT count(*) FROM tasks WHERE user_id = %s AND deleted_at IS NULL", context.owner.id
    )
    prober.expect(
        live == [(TASKS_OF_OWNER - TASKS_OF_OWNER // 10,)], f"{live} tasks are stored after the seed"
    )


def _create(client: Client, user: User, fields: dict[str, object]) -> str:
    return str(json.loads(_send(client, user, "POST", TASKS, fields))["id"])


def _send(client: Client, user: User, method: str, path: str, fields: dict[str, object] | None) -> bytes:
    response = client.request(method, path, headers={"Authorization": f"Bearer {user.token}"}, json=fields)
    response.raise_for_status()
    return response.content
