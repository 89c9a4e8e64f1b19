"""Custom Schemathesis checks, applied to every response of a fuzz run.

The run in the test suite and `make fuzz` share them. Call `use_context` first.

    isolation          another user cannot read, change or detect the owner's tasks
    authentication     an invalid token gets 401 and changes nothing
    response_format    headers and problem details are as specified, and nothing leaks
    feed               each change has the next position of its user
    effects            the stored task and the pages of lists are as expected
    durability         another worker reads what the response contained
"""

import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import Any

import schemathesis
from requests import PreparedRequest
from requests import Response as Answer
from schemathesis import Case, CheckContext, HookContext, Response

from auth.bearer import READ
from tests.fuzz import curl, expected_effects, response_checks
from tests.fuzz.context import START_OF_2020, FuzzContext, task_id_in
from tests.fuzz.pagination_checks import check_pages
from tests.fuzz.situations import Situation, situation, unmet
from tests.operations import ON_ONE_TASK, OPERATIONS, Operation
from tests.support import TASKS

_OPERATIONS = {f"{each.method} {each.path}": each for each in OPERATIONS}
REPLAYED_BY_STRANGER = situation("a random request, replayed by a stranger", "tasks.isolation", at_least=10)
CURSOR_OF_STRANGER = situation(
    "a random list's cursor, followed by a stranger", "tasks.list.cursor", "tasks.isolation", at_least=3
)
REPLAYED_WITHOUT_AUTHORITY = situation(
    "a random request, replayed with an invalid token and too small a scope",
    "auth.bearer",
    "auth.scope.limits",
    at_least=10,
)
RESPONSE = situation(
    "any response to a random request",
    "problems.media-type",
    "problems.members",
    "problems.no-echo",
    "headers.security",
    "headers.cache",
    "contract.statuses",
    "process.logs.secrets",
    at_least=100,
)
EFFECT = situation(
    "a random write's effect on the stored row",
    "tasks.isolation.writes",
    "tasks.update.merge",
    at_least=30,
)
NO_EFFECT = situation(
    "a random request that must not change a row", "tasks.isolation.writes", "auth.no-database", at_least=100
)
FEED = situation(
    "a random write's position in the feed",
    "schema.feed.position",
    "schema.feed.count",
    "schema.feed.first",
    at_least=30,
)
READ_BACK = situation("a random write, read by another worker", "tasks.durable", at_least=10)
RANDOM = (
    REPLAYED_BY_STRANGER,
    CURSOR_OF_STRANGER,
    REPLAYED_WITHOUT_AUTHORITY,
    RESPONSE,
    EFFECT,
    NO_EFFECT,
    FEED,
    READ_BACK,
)
UNKNOWN_ORIGIN = "https://evil.example.com"
_ID = re.compile(r'"id":"([0-9a-f-]{36})"')
VALID_BODY = b'{"title": "Mine now"}'

_context: FuzzContext
_invalid_tokens: Iterator[tuple[str, str | None]]
_row_security_modes: Iterator[Callable[[], AbstractContextManager[None]]]


def use_context(context: FuzzContext) -> None:
    global _context, _invalid_tokens, _row_security_modes  # noqa: PLW0603 - Schemathesis keeps its checks for the process
    _context = context
    _invalid_tokens = itertools.cycle(context.invalid_tokens.items())
    _row_security_modes = itertools.cycle([nullcontext, context.without_row_security])
    _response_for_missing_task.cache_clear()


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], **kwargs: object) -> None:
    _context.snapshots[case.id] = [_context.snapshot(task_id_in(case.formatted_path))]


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    _context.snapshots[case.id].append(_context.snapshot(_task_id(response)))


Check = Callable[[CheckContext, Response, Case[Any]], None]


def _check(*situations: Situation) -> Callable[[Check], Check]:
    """Register a check whose failures name the clauses of these situations, and its last replay."""
    clauses = ", ".join(dict.fromkeys(clause for each in situations for clause in each.clauses))

    def register(function: Check) -> Check:
        @wraps(function)
        def check(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
            _context.last_sent = None
            try:
                function(ctx, response, case)
            except AssertionError as error:
                raise AssertionError(f"{error} [{clauses}]{_replay()}") from error

        registered: Check = schemathesis.check(check)
        return registered

    return register


def _replay() -> str:
    """The last request that the running check sent itself; Schemathesis prints only the original one."""
    request = _context.last_sent
    if request is None:
        return ""
    body, user_id = _body(request) or b"", _context.user_id_of(request)
    return (
        f"\n    {curl.command(str(request.method), str(request.url), request.headers.items(), body, user_id)}"
    )


@_check(REPLAYED_BY_STRANGER, CURSOR_OF_STRANGER)
def isolation(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Replay every successful request of the owner as another user, with all methods.

    Alternates between row security on and off, so that the user filter in the
    statements is tested on its own. Row security on its own is tested in SQL.
    """
    if not _is_success_of_owner(response):
        return
    before = _context.fingerprint(of=_context.owner)
    with next(_row_security_modes)():
        _fail_on(_replay_as_stranger(response))
    _expect(not _context.rows_visible_to_stranger(), "row security shows a stranger the owner's rows")
    _expect(_context.fingerprint(of=_context.owner) == before, "a stranger changed what the owner has")
    _context.met[REPLAYED_BY_STRANGER.name] += 1


def _replay_as_stranger(response: Response) -> Iterator[str]:
    task, body = _task_id(response), _without_id(_body(response.request))
    if task is None:
        yield from _replay_list(response)
        return
    # A full body is also a valid patch, but not the other way round.
    whole = body if response.request.method in {"POST", "PUT"} else None
    for operation in ON_ONE_TASK:
        its_body = (whole if operation.method == "PUT" else body) or VALID_BODY
        yield from _replay_on_task(task, operation, its_body if operation.body else None)
    if response.status_code == 201:
        yield from _replay_create(body)


def _without_id(body: bytes | None) -> bytes | None:
    """Without the ID that the owner chose: only a create takes one, and the stranger's task gets another."""
    if not body:
        return body
    document = json.loads(body)
    document.pop("id", None)
    return json.dumps(document).encode()


def _replay_on_task(task: uuid.UUID, operation: Operation, body: bytes | None) -> Iterator[str]:
    url = operation.url(str(task))
    response_to_stranger = _check_response(
        _context.send(operation.method, url, _context.stranger.token, body)
    )
    if _without_request_id(response_to_stranger) != _response_for_missing_task(operation):
        yield f"a stranger's {operation.name} tells the owner's task from one that never existed"
    if response_to_stranger.status_code != 404:
        yield f"a stranger's {operation.name} on the owner's task got {response_to_stranger.status_code}"


@cache
def _response_for_missing_task(operation: Operation) -> tuple[object, ...]:
    """The response for a task that never existed, without its request ID."""
    url, body = operation.url(str(uuid.uuid4())), VALID_BODY if operation.body else None
    return _without_request_id(_context.send(operation.method, url, _context.stranger.token, body))


def _replay_create(body: bytes | None) -> Iterator[str]:
    response_to_stranger = _check_response(_context.send("POST", TASKS, _context.stranger.token, body))
    if response_to_stranger.json().get("user_id") != _context.stranger.id:
        yield "the body that made a task for the owner does not make one for a stranger"


def _replay_list(response: Response) -> Iterator[str]:
    """Send the owner's list query, export, and the owner's cursor as another user."""
    seen = _check_response(_context.send("GET", response.request.path_url, _context.stranger.token))
    # Both can have a task of the same ID.
    ids = {*_ID.findall(response.text)} - _context.ids(_context.stranger)
    owners = [_context.owner.id, *ids]
    if seen.status_code == 200 and any(name in f"{seen.headers}{seen.text}" for name in owners):
        yield "a stranger's list contains the owner's data"
    for link in _link_targets(response):
        _context.met[CURSOR_OF_STRANGER.name] += 1
        answer = _context.send("GET", link, _context.stranger.token)
        if answer.status_code != 404:
            yield f"a stranger follows the owner's cursor and gets {answer.status_code}"


@_check(REPLAYED_WITHOUT_AUTHORITY)
def authentication(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Replay every successful request of the owner with an invalid token, each kind in turn."""
    if not _is_success_of_owner(response):
        return
    kind, token = next(_invalid_tokens)
    before = _context.fingerprint()
    request = response.request
    answer = _context.send(str(request.method), request.path_url, token, _body(request))
    _expect(answer.status_code == 401, f"{kind} got {answer.status_code}")
    challenge = answer.headers.get("WWW-Authenticate", "")
    good = challenge == "Bearer" if token is None else response_checks.INVALID_TOKEN.fullmatch(challenge)
    _expect(good, f"{kind} is answered with the challenge {challenge!r}")
    _fail_on(_replay_with_wrong_scope(request, _OPERATIONS[case.operation.label].scope))
    _expect(_context.fingerprint() == before, f"{kind}, or one with too small a scope, changed something")
    _context.met[REPLAYED_WITHOUT_AUTHORITY.name] += 1


def _replay_with_wrong_scope(request: PreparedRequest, needed: str) -> Iterator[str]:
    """Send what needs the scope for reading with a write-only token, and the rest with a read-only one."""
    limited = _context.writer if needed == READ else _context.reader
    answer = _context.send(str(request.method), request.path_url, limited.token, _body(request))
    challenge = answer.headers.get("WWW-Authenticate", "")
    if answer.status_code != 403 or f'scope="{needed}"' not in challenge:
        yield f"a token without {needed} got {answer.status_code} and {challenge!r}"


@_check(RESPONSE)
def response_format(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Headers and problem details are as specified, and neither responses nor logs leak data."""
    _fail_on(response_checks.check_headers(response))
    _fail_on(response_checks.check_problem(response))
    _fail_on(response_checks.check_timestamps(response))
    _fail_on(response_checks.leaks(response, _context.secrets()))
    _fail_on(response_checks.log_leaks(response.request, _context.read_new_log(), _context.secrets()))
    if response.status_code < 300 and response.request.body:
        _fail_on(_replay_with_truncated_body(response.request))
    if response.request.method == "GET" and response.status_code < 300:
        cross_origin = _context.send(
            "GET", response.request.path_url, _context.owner.token, Origin=UNKNOWN_ORIGIN
        )
        _expect("Access-Control-Allow-Origin" not in cross_origin.headers, "a foreign origin is allowed")
    _context.met[RESPONSE.name] += 1


def _replay_with_truncated_body(request: PreparedRequest) -> Iterator[str]:
    """Send the same request with its JSON body truncated."""
    body = (_body(request) or b"").rstrip()[:-1]
    answer = Response.from_any(
        _context.send(str(request.method), request.path_url, _context.owner.token, body)
    )
    if answer.status_code != 400:
        yield f"a body that was cut short got {answer.status_code}"
    yield from response_checks.check_problem(answer)
    yield from response_checks.leaks(answer, _context.secrets())


@_check(FEED)
def feed(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """A change takes the next position and is counted; no other request moves the feed."""
    before, after = _context.snapshots[case.id]
    if after.feed is not None:
        _expect(after.feed.seq == after.feed.last_position, "the feed is not at the last change")
        _expect(after.feed.seq > START_OF_2020, "the feed did not begin at the time in microseconds")
        _expect(after.feed.live_tasks == after.feed.counted_tasks, "the feed miscounts the tasks")
    if _is_applied_batch(case, response):
        position = next(iter(response.headers.get("tasks-position", [])), None)
        at_end = (
            before.feed == after.feed if position is None else after.feed and position == f"{after.feed.seq}"
        )
        _expect(at_end or _is_repeated(response), "a batch does not say where the feed is")
        return
    if before.task == after.task:
        _expect(before.feed == after.feed, "a request that changed nothing moved the feed")
        return
    _context.met[FEED.name] += 1
    _expect(after.feed and after.position == after.feed.seq, "the change has not the last position")
    if before.feed and after.feed:
        _expect(after.feed.seq == before.feed.seq + 1, "the change did not take the next position")


@_check(EFFECT, NO_EFFECT)
def effects(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """The request has exactly its specified effect on stored rows."""
    before, after = _context.snapshots[case.id]
    _expect(before.foreign_rows == after.foreign_rows, "something of another user changed")
    _expect(
        before.other_rows == after.other_rows or _is_applied_batch(case, response),
        "something changed that the request is not about",
    )
    if response.status_code >= 400 or response.request.method in {"GET", "HEAD"}:
        _expect(before.task == after.task, "a request that must not change anything did")
        _context.met[NO_EFFECT.name] += 1
    if not _context.is_from_owner(response.request):
        return
    if response.status_code == 404 and before.task is not None:
        _expect(before.task["deleted_at"] is not None, "the owner's own task is not found")
    if response.status_code < 300:
        _expect(
            response_checks.accepts_query(case, response.request),
            "an unknown or repeated query parameter was accepted",
        )
        operation = _OPERATIONS.get(case.operation.label)
        if operation is not None and response.request.method not in {"GET", "HEAD"}:
            _fail_on(_check_effect(operation, response, before.task, after.task))
            _context.met[EFFECT.name] += 1
    if case.operation.label == f"GET {TASKS}" and response.status_code in {200, 400, 404}:
        _fail_on(check_pages(_context, response.request.path_url))


def _is_applied_batch(case: Case[Any], response: Response) -> bool:
    return case.operation.label == f"POST {TASKS}/batch" and response.status_code == 200


def _check_effect(
    operation: Operation, response: Response, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> Iterable[str]:
    request = response.request
    if _is_repeated(response):
        return ()
    if operation.status == 201:
        return expected_effects.check_create(
            _stored_row(response), _request_fields(request), _context.owner.id
        )
    if operation.on_one_task:
        return expected_effects.check_operation(operation, before, after, _request_fields(request))
    return ()


@_check(READ_BACK)
def durability(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """The response matches the stored row and what another worker reads."""
    task = _task_id(response)
    if not _is_success_of_owner(response) or task is None:
        return
    name = uuid.uuid4().hex
    read = _context.send("GET", _task_path(response, task), _context.owner.token, **{"X-Request-ID": name})
    _expect(read.headers.get("X-Request-ID") == name, "the request's own id is not kept")
    if response.request.method != "GET":
        _context.met[READ_BACK.name] += 1
    if response.status_code == 204:
        _expect(read.status_code == 404, "another worker still has the deleted task")
        return
    _expect(read.status_code == 200, f"another worker answers {read.status_code} for the task")
    _expect(read.json() == response.json(), "another worker reads something else")
    stored = expected_effects.parse_timestamps(_stored_row(response))
    _expect(
        expected_effects.parse_timestamps(response.json()) == stored,
        "something else is stored than was answered",
    )


def _check_response(answer: Answer) -> Answer:
    """Check the format of the response to a replayed request."""
    response = Response.from_any(answer)
    _fail_on(response_checks.check_headers(response))
    _fail_on(response_checks.check_problem(response))
    return answer


@schemathesis.check
class EverySituationWasMet:  # Schemathesis shows the name of the class.
    """Fails a run whose random requests met one of their situations too rarely."""

    def after_run(self, ctx: CheckContext) -> None:
        _fail_on(unmet(_context.met, RANDOM))


def _task_path(response: Response, task: uuid.UUID) -> str:
    """The URL of the task: the Location header if there is one."""
    location = response.headers.get("location", [f"{TASKS}/{task}"])
    return location[0]


def _stored_row(response: Response) -> dict[str, Any]:
    task = _task_id(response)
    row = _context.row(task) if task else None
    _expect(row is not None, "what was answered is not stored")
    assert row is not None
    return row


def _is_success_of_owner(response: Response) -> bool:
    request = response.request
    return (
        response.status_code < 300
        and request.path_url.startswith("/api/")
        and request.method != "HEAD"
        and not _is_repeated(response)
        and _context.is_from_owner(request)
    )


def _is_repeated(response: Response) -> bool:
    """Whether the response is that of an earlier request, or has a task that existed already."""
    request = response.request
    is_create = request.method == "POST" and request.path_url.partition("?")[0] == TASKS
    return "idempotency-replayed" in response.headers or (is_create and response.status_code == 200)


def _task_id(response: Response) -> uuid.UUID | None:
    """The task in the path, or the one that was created."""
    if response.status_code == 201 and not _is_repeated(response):
        return uuid.UUID(response.json()["id"])
    return task_id_in(response.request.path_url)


def _body(request: PreparedRequest) -> bytes | None:
    body = request.body
    return body.encode() if isinstance(body, str) else body


def _request_fields(request: PreparedRequest) -> dict[str, Any]:
    document = json.loads(request.body or b"{}")
    return document if isinstance(document, dict) else {}


def _link_targets(response: Response) -> list[str]:
    return [response_checks.link_target(link) for link in response.headers.get("link", [])]


def _without_request_id(answer: Answer) -> tuple[object, ...]:
    """Status, headers and body without the request ID and the Date header."""
    request_id = answer.headers.get("X-Request-ID", "")
    headers = {
        name: value for name, value in answer.headers.items() if name.lower() not in {"x-request-id", "date"}
    }
    return answer.status_code, headers, answer.text.replace(request_id, "")


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def _fail_on(problems: Iterable[str]) -> None:
    found = list(problems)
    _expect(not found, "; ".join(found))
