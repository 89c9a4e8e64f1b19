"""Probes of creates that are repeated: under a key, and with an ID of the client."""

import itertools
import json
import uuid
from typing import Any

from httpx2 import Response

from tests.factories import full_task, new_task
from tests.fuzz.context import User
from tests.fuzz.prober import JSON, Prober, probe
from tests.fuzz.probes.batch import BATCH, request_of
from tests.support import TASKS

GOOD_KEYS = ("!", "~" * 255, '"', "%s'--", "0f8fad5b-d9cb-469f-a165-70867728950e")
# No control characters: gunicorn itself refuses them in any header.
BAD_KEYS = ("", "x" * 256, "a b", "a\tb", "x" * 8_000)


def _create(prober: Prober, status: int, user: User, body: dict[str, Any], *keys: str) -> Response:
    return prober.accept(
        status, "POST", TASKS, token=user, content=json.dumps(body).encode(),
        headers=[*JSON, *(("Idempotency-Key", key) for key in keys)],
    )  # fmt: skip


def _refuse(prober: Prober, status: int, kind: str, user: User, body: dict[str, Any], *keys: str) -> Response:
    return prober.refuse(
        status, kind, "POST", TASKS, token=user, content=json.dumps(body).encode(),
        headers=[*JSON, *(("Idempotency-Key", key) for key in keys)],
    )  # fmt: skip


def _same(response: Response, first: Response) -> bool:
    names = ("location", "etag", "content-type")
    return (response.content, *map(response.headers.get, names)) == (
        first.content,
        *map(first.headers.get, names),
    )


@probe("tasks.create.key", "tasks.create.key.body", "tasks.create.key.form", at_least=8 * len(GOOD_KEYS))
def a_create_under_a_key(prober: Prober) -> None:
    owner, stranger = prober.context.owner, prober.context.stranger
    for good, body in itertools.product(GOOD_KEYS, (new_task(), full_task())):
        key = f"{good[:254]}{len(body)}"
        first = _create(prober, 201, owner, body, key)
        prober.expect("Idempotency-Replayed" not in first.headers, "a new task is marked as replayed", first)
        task, before = first.json()["id"], prober.context.feed(owner)
        for form in (key, f'"{key}"' if len(key) < 254 else key):
            again = _create(prober, 201, owner, body, form)
            prober.expect(_same(again, first), "the response differs from the first one", again)
            prober.expect(again.headers.get("Idempotency-Replayed") == "true", "it is not marked", again)
        _refuse(prober, 409, "idempotency-key-reused", owner, {**body, "title": "Another"}, key)
        prober.expect(prober.context.feed(owner) == before, "a repeated create moved the feed")
        other = _create(prober, 201, stranger, body, key)
        prober.expect(other.json()["user_id"] == stranger.id, "a key of another user counts", other)
        prober.expect("Idempotency-Replayed" not in other.headers, "a key is shared by two users", other)
        prober.accept(204, "DELETE", f"{TASKS}/{task}", token=owner)
        again = _create(prober, 201, owner, body, key)
        prober.expect(_same(again, first), "the response depends on what has happened since", again)


@probe("tasks.create.key.form", at_least=2 * len(BAD_KEYS) + 1)
def a_key_of_the_wrong_form(prober: Prober) -> None:
    owner = prober.context.owner
    for key in BAD_KEYS:
        _refuse(prober, 400, "invalid-idempotency-key", owner, new_task(), key)
    _refuse(prober, 400, "invalid-idempotency-key", owner, new_task(), "a", "a")
    for key in BAD_KEYS:
        request = request_of(owner, {"op": "create", "task": new_task()}, key=key)
        prober.refuse(400, "invalid-idempotency-key", "POST", BATCH, **request)


@probe("tasks.create.id", "task.id", at_least=9)
def a_create_with_an_id_of_the_client(prober: Prober) -> None:
    owner, stranger = prober.context.owner, prober.context.stranger
    body = full_task(id=str(uuid.uuid4()))
    first = _create(prober, 201, owner, body)
    path = f"{TASKS}/{body['id']}"
    prober.expect(first.headers.get("Location") == path, "the task has another ID", first)
    for keys in ((), ("with-a-key",)):
        again = _create(prober, 200, owner, body, *keys)
        prober.expect(_same(again, first), "the same task is not returned", again)
    other = _create(prober, 201, stranger, body)
    prober.expect(other.json()["user_id"] == stranger.id, "an ID of another user counts", other)
    changes: tuple[dict[str, Any], ...] = ({"title": "Another"}, {"tags": []}, {"completed": False})
    for change in changes:
        response = _refuse(prober, 409, "task-exists", owner, {**body, **change})
        prober.expect(
            response.headers.get("ETag") == first.headers.get("ETag"), "the tag is missing", response
        )
    prober.accept(204, "DELETE", path, token=owner)
    _refuse(prober, 409, "task-exists", owner, body)
