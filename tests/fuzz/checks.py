"""The checks that Schemathesis does not have: between users, of tokens, of shape, of what was written.

One module for the run in the test suite and for the live one; each registers
with Schemathesis, which then applies it to every answer. `begin` says behind
which world they look.

    isolation        what a stranger gets of the owner's: nothing
    authentication   what a bad token gets: 401, and no effect
    shape            headers, problems, and nothing that must not leave the service
    effects          what an operation did to the task, and which tasks a list has
    durability       what was answered is what another worker reads
"""

import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import schemathesis
from requests import PreparedRequest
from requests import Response as Answer
from schemathesis import Case, CheckContext, HookContext, Response

from tests.fuzz import oracle, shapes
from tests.fuzz.pages import wrong_pages
from tests.fuzz.world import World, task_in
from tests.operations import ON_ONE_TASK, OPERATIONS, Operation
from tests.support import TASKS

_OPERATIONS = {f"{each.method} {each.path}": each for each in OPERATIONS}
OURS = ("isolation", "authentication", "shape", "effects", "durability")
EVIL = "https://evil.example.com"
SOME_BODY = b'{"title": "Mine now"}'

_world: World
_bad_tokens: Iterator[tuple[str, str | None]]
_walls: Iterator[Callable[[], AbstractContextManager[None]]]


def begin(world: World) -> None:
    global _world, _bad_tokens, _walls  # noqa: PLW0603 - Schemathesis keeps its checks for the process
    _world = world
    _bad_tokens = itertools.cycle(world.refused.items())
    _walls = itertools.cycle([nullcontext, world.without_row_security])
    _nobodys.cache_clear()


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], **kwargs: object) -> None:
    _world.snapshots[case.id] = [_world.snapshot(task_in(case.formatted_path))]


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    _world.snapshots[case.id].append(_world.snapshot(_task(response)))


@schemathesis.check
def isolation(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Every success of the owner is replayed as a stranger by all methods.

    In turn behind all walls and without row security, so that the statements
    must keep users apart by themselves; row security by itself is asked in SQL.
    """
    if not _is_success_of_owner(response):
        return
    before = _world.mark(of=_world.owner)
    with next(_walls)():
        _fail_on(_attack(response))
    _expect(not _world.rows_past_row_security(), "row security shows a stranger the owner's rows")
    _expect(_world.mark(of=_world.owner) == before, "a stranger changed what the owner has")
    _world.uses["isolation"] += 1


def _attack(response: Response) -> Iterator[str]:
    task, body = _task(response), _body(response.request)
    if task is None:
        yield from _look_into(response)
        return
    # What makes a whole task is a patch as well, but not the other way round.
    whole = body if response.request.method in {"POST", "PUT"} else None
    for operation in ON_ONE_TASK:
        its_body = (whole if operation.method == "PUT" else body) or SOME_BODY
        yield from _steal(task, operation, its_body if operation.body else None)
    if response.status_code == 201:
        yield from _create_alike(body)


def _steal(task: uuid.UUID, operation: Operation, body: bytes | None) -> Iterator[str]:
    url = operation.url(str(task))
    mine = _checked(_world.send(operation.method, url, _world.stranger.token, body))
    if _without_id(mine) != _nobodys(operation):
        yield f"a stranger's {operation.name} tells the owner's task from one that never existed"
    if mine.status_code != 404:
        yield f"a stranger's {operation.name} on the owner's task got {mine.status_code}"


@cache
def _nobodys(operation: Operation) -> tuple[object, ...]:
    """The answer about a task that never existed."""
    url, body = operation.url(str(uuid.uuid4())), SOME_BODY if operation.body else None
    return _without_id(_world.send(operation.method, url, _world.stranger.token, body))


def _create_alike(body: bytes | None) -> Iterator[str]:
    mine = _checked(_world.send("POST", TASKS, _world.stranger.token, body))
    if mine.json().get("user_id") != _world.stranger.id:
        yield "the body that made a task for the owner does not make one for a stranger"


def _look_into(response: Response) -> Iterator[str]:
    """A list, as a stranger sees it: with the owner's query, and with the owner's cursor."""
    seen = _checked(_world.send("GET", response.request.path_url, _world.stranger.token))
    owners = [_world.owner.id, *(task["id"] for task in response.json())]
    if seen.status_code == 200 and any(name in f"{seen.headers}{seen.text}" for name in owners):
        yield "a stranger's list has something of the owner's"
    for link in _links(response):
        answer = _world.send("GET", link, _world.stranger.token)
        if answer.status_code != 404:
            yield f"a stranger follows the owner's cursor and gets {answer.status_code}"


@schemathesis.check
def authentication(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Every success of the owner is replayed with a bad token, each kind in turn."""
    if not _is_success_of_owner(response):
        return
    kind, token = next(_bad_tokens)
    before = _world.mark()
    request = response.request
    answer = _world.send(str(request.method), request.path_url, token, _body(request))
    _expect(answer.status_code == 401, f"{kind} got {answer.status_code}")
    challenge = answer.headers.get("WWW-Authenticate", "")
    good = challenge == "Bearer" if token is None else shapes.INVALID_TOKEN.fullmatch(challenge)
    _expect(good, f"{kind} is answered with the challenge {challenge!r}")
    _fail_on(_overreach(request))
    _expect(_world.mark() == before, f"{kind}, or one with too small a scope, changed something")
    _world.uses["authentication"] += 1


def _overreach(request: PreparedRequest) -> Iterator[str]:
    """The owner's own request, with a token whose scope is for the other kind of operation."""
    limited, needed = (
        (_world.writer, "tasks:read") if request.method == "GET" else (_world.reader, "tasks:write")
    )
    answer = _world.send(str(request.method), request.path_url, limited.token, _body(request))
    challenge = answer.headers.get("WWW-Authenticate", "")
    if answer.status_code != 403 or f'scope="{needed}"' not in challenge:
        yield f"a token without {needed} got {answer.status_code} and {challenge!r}"


@schemathesis.check
def shape(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Headers and problems are as the specification says, and nothing leaves that must not."""
    _fail_on(shapes.wrong_headers(response))
    _fail_on(shapes.wrong_problem(response))
    _fail_on(shapes.wrong_timestamps(response))
    _fail_on(shapes.told(response, _world.secrets()))
    _fail_on(shapes.logged(response.request, _world.new_log(), _world.secrets()))
    if response.status_code < 300 and response.request.body:
        _fail_on(_cut_short(response.request))
    if response.request.method == "GET" and response.status_code < 300:
        elsewhere = _world.send("GET", response.request.path_url, _world.owner.token, Origin=EVIL)
        _expect("Access-Control-Allow-Origin" not in elsewhere.headers, "any origin may read")
    _world.uses["shape"] += 1


def _cut_short(request: PreparedRequest) -> Iterator[str]:
    """The same request with a body that is no JSON any more."""
    body = (_body(request) or b"").rstrip()[:-1]
    answer = Response.from_any(_world.send(str(request.method), request.path_url, _world.owner.token, body))
    if answer.status_code != 400:
        yield f"a body that was cut short got {answer.status_code}"
    yield from shapes.wrong_problem(answer)
    yield from shapes.told(answer, _world.secrets())


@schemathesis.check
def effects(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """What is stored is what the owner asked for, and nothing else is touched."""
    before, after = _world.snapshots[case.id]
    _expect(before.rest == after.rest, "something changed that the request is not about")
    if response.status_code >= 400 or response.request.method in {"GET", "HEAD"}:
        _expect(before.task == after.task, "a request that must not change anything did")
    if not _world.is_from_owner(response.request):
        return
    if response.status_code == 404 and before.task is not None:
        _expect(before.task["deleted_at"] is not None, "the owner's own task is not found")
    if response.status_code < 300:
        _expect(
            shapes.takes_query(case, response.request), "an unknown query parameter, or one twice, is taken"
        )
        operation = _OPERATIONS.get(case.operation.label)
        if operation is not None:
            _fail_on(_wrong_effect(operation, response, before.task, after.task))
    if case.operation.label == f"GET {TASKS}" and response.status_code in {200, 400}:
        _fail_on(wrong_pages(_world, response.request.path_url))
    _world.uses["effects"] += 1


def _wrong_effect(
    operation: Operation, response: Response, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> Iterable[str]:
    request = response.request
    if operation.status == 201:
        return oracle.created(_stored(response), _sent(request), _world.owner.id)
    if operation.on_one_task:
        return oracle.answered(operation, before, after, _sent(request))
    return ()


@schemathesis.check
def durability(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """What the owner was answered is what is stored, and what another worker reads."""
    task = _task(response)
    if not _is_success_of_owner(response) or task is None:
        return
    name = uuid.uuid4().hex
    read = _world.send("GET", _path(response, task), _world.owner.token, **{"X-Request-ID": name})
    _expect(read.headers.get("X-Request-ID") == name, "the request's own id is not kept")
    _world.uses["durability"] += 1
    if response.status_code == 204:
        _expect(read.status_code == 404, "another worker still has the deleted task")
        return
    _expect(read.status_code == 200, f"another worker answers {read.status_code} for the task")
    _expect(read.json() == response.json(), "another worker reads something else")
    stored = oracle.comparable(_stored(response))
    _expect(oracle.comparable(response.json()) == stored, "something else is stored than was answered")


def _checked(answer: Answer) -> Answer:
    """A replayed answer is one that somebody gets, too."""
    response = Response.from_any(answer)
    _fail_on(shapes.wrong_headers(response))
    _fail_on(shapes.wrong_problem(response))
    return answer


@schemathesis.check
class AllLooked:  # Schemathesis shows the name of the class.
    """A run in which a check never had anything to look at has proven nothing."""

    def after_run(self, ctx: CheckContext) -> None:
        idle = [name for name in OURS if not _world.uses[name]]
        _expect(not idle, f"these checks never had anything to look at: {', '.join(idle)}")


def _path(response: Response, task: uuid.UUID) -> str:
    """Where the task is: what a new one's Location says."""
    location = response.headers.get("location", [f"{TASKS}/{task}"])
    return location[0]


def _stored(response: Response) -> dict[str, Any]:
    task = _task(response)
    row = _world.row(task) if task else None
    _expect(row is not None, "what was answered is not stored")
    assert row is not None
    return row


def _is_success_of_owner(response: Response) -> bool:
    request = response.request
    return (
        response.status_code < 300
        and request.path_url.startswith(TASKS)
        and request.method != "HEAD"
        and _world.is_from_owner(request)
    )


def _task(response: Response) -> uuid.UUID | None:
    """The task that the answer is about, a new one too."""
    if response.status_code == 201:
        return uuid.UUID(response.json()["id"])
    return task_in(response.request.path_url)


def _body(request: PreparedRequest) -> bytes | None:
    body = request.body
    return body.encode() if isinstance(body, str) else body


def _sent(request: PreparedRequest) -> dict[str, Any]:
    document = json.loads(request.body or b"{}")
    return document if isinstance(document, dict) else {}


def _links(response: Response) -> list[str]:
    return [shapes.target(link) for link in response.headers.get("link", [])]


def _without_id(answer: Answer) -> tuple[object, ...]:
    """All that can be seen of an answer, but for its request id and the time of day."""
    request_id = answer.headers.get("X-Request-ID", "")
    headers = {
        name: value for name, value in answer.headers.items() if name.lower() not in {"x-request-id", "date"}
    }
    return answer.status_code, headers, answer.text.replace(request_id, "")


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def _fail_on(faults: Iterable[str]) -> None:
    found = list(faults)
    _expect(not found, "; ".join(found))
