"""Probes of conditional requests: entity tags of tasks and lists, If-None-Match and If-Match."""

import itertools
import json
import uuid

from httpx2 import Response

from tests.fuzz.context import User
from tests.fuzz.prober import JSON, Options, Prober, if_match, probe, valid
from tests.operations import CHANGING_ONE_TASK, ON_ONE_TASK, OPERATIONS
from tests.support import TASKS

FORMS = ("{0}", '"x", {0}', "{0}\t ,\t{0}", "*", ",{0}, ,")
"""Of a header that names the tag."""
OTHERS = ("", ",", '"2"', 'W/"1"', "W/{0}", '"01"', '"1-AAAAAAAA"', '""', f'"{10**12}"')
"""Of a header that does not, for a change of a new task."""
# No control characters: gunicorn itself refuses them in any header.
MALFORMED = ("1", '"1', '1"', '"1" "1"', "**", '*, "1"', 'w/"1"', '"a b"', "null")
LISTS = ("", "limit=2", "completed=true", "sort=due", "deleted=true", "q=plants&tag=home")


def _new(prober: Prober, user: User) -> tuple[str, str]:
    """The ID and the tag of a new task."""
    response = prober.request("POST", TASKS, token=user, content=b'{"title": "New"}', headers=JSON)
    return str(response.json()["id"]), _tag(prober, response)


def _tag(prober: Prober, response: Response) -> str:
    tag = response.headers.get("ETag", "")
    prober.expect(tag, "there is no ETag", response)
    return tag


def _get(prober: Prober, path: str, user: User, known: str, method: str = "GET") -> Response:
    return prober.request(method, path, token=user, headers=[("If-None-Match", known)])


@probe("http.etag", "http.if-none-match", at_least=17)
def a_tag_that_the_client_knows(prober: Prober) -> None:
    owner, stranger = prober.context.owner, prober.context.stranger
    task, tag = _new(prober, owner)
    path = f"{TASKS}/{task}"
    prober.expect(tag == _tag(prober, prober.request("GET", path, token=owner)), "GET has another tag")
    for method, form in itertools.product(("GET", "HEAD"), (*FORMS, "W/{0}", '"y",W/{0}')):
        response = _get(prober, path, owner, form.format(tag), method)
        prober.met()
        prober.expect(
            response.status_code == 304 and not response.content, "a known task is sent again", response
        )
        prober.expect(response.headers.get("ETag") == tag, "the 304 has another tag", response)
    other = _new(prober, stranger)[1]
    prober.expect(other != tag, "two users share a tag")
    changed = prober.request("PATCH", path, token=owner, content=b'{"completed": true}', headers=JSON)
    prober.expect(_tag(prober, changed) != tag, "a change keeps the tag", changed)
    for known in (tag, other, '"2"', '"x"', 'W/"2"'):
        response = _get(prober, path, owner, known)
        prober.met()
        prober.expect(response.status_code == 200, f"{known} is taken for the current tag", response)
    for each in (_get(prober, path, stranger, "*"), _get(prober, path, stranger, tag)):
        prober.expect(each.status_code == 404, "a stranger learns of a task by its tag", each)


@probe("http.if-match", at_least=len(CHANGING_ONE_TASK) * (len(FORMS) + len(OTHERS)))
def a_change_under_a_precondition(prober: Prober) -> None:
    owner, stranger = prober.context.owner, prober.context.stranger
    for operation in CHANGING_ONE_TASK:
        for form in (*FORMS, '"1"', '"7","1"'):
            task, tag = _new(prober, owner)
            request = if_match(valid(operation, owner), form.format(tag))
            prober.accept(operation.status, operation.method, operation.url(task), **request)
        task, tag = _new(prober, owner)
        foreign = _new(prober, stranger)[1]
        for form in (*OTHERS, foreign):
            request = if_match(valid(operation, owner), form.format(tag))
            response = prober.refuse(
                412, "precondition-failed", operation.method, operation.url(task), **request
            )
            prober.expect(response.headers.get("ETag") == tag, "the 412 has not the current tag", response)
        for form in ("*", '"1"', '"2"', tag):
            for missing, user in ((task, stranger), (str(uuid.uuid4()), owner)):
                request = if_match(valid(operation, user), form)
                prober.refuse(404, "not-found", operation.method, operation.url(missing), **request)


@probe("http.if-match", "tasks.update.empty", at_least=3)
def an_empty_patch_under_a_precondition(prober: Prober) -> None:
    owner = prober.context.owner
    task, tag = _new(prober, owner)
    request: Options = {"token": owner, "content": b"{}"}
    for value in (tag, '"1"'):
        prober.accept(200, "PATCH", f"{TASKS}/{task}", **if_match(request, value))
    prober.refuse(412, "precondition-failed", "PATCH", f"{TASKS}/{task}", **if_match(request, '"2"'))


@probe("http.preconditions.malformed", at_least=len(MALFORMED) * len(ON_ONE_TASK))
def a_precondition_of_the_wrong_form(prober: Prober) -> None:
    owner = prober.context.owner
    task, _ = _new(prober, owner)
    for value, operation in itertools.product(MALFORMED, (*ON_ONE_TASK, OPERATIONS[0])):
        name = "If-None-Match" if operation.method == "GET" else "If-Match"
        prober.refuse(
            400, "invalid-precondition", operation.method, operation.url(task), token=owner,
            content=valid(operation, owner)["content"], headers=[*JSON, (name, value)],
        )  # fmt: skip


@probe("http.etag.lists", at_least=3 * len(LISTS))
def the_tag_of_a_list(prober: Prober) -> None:
    """It lasts until the next change, whatever it is, and belongs to one user and one query."""
    context = prober.context
    user = User("fuzz-tags", context.mint("fuzz-tags"))
    task, _ = _new(prober, user)
    seen: list[str] = []
    for change in (None, "PATCH", "PUT", "POST", "DELETE"):
        if change is not None:
            path = TASKS if change == "POST" else f"{TASKS}/{task}"
            body = json.dumps({"title": change}).encode()
            prober.request(change, path, token=user, content=body, headers=JSON)
        for query in LISTS:
            path = f"{TASKS}?{query}"
            first = prober.accept(200, "GET", path, token=user)
            tag = _tag(prober, first)
            again = _get(prober, path, user, f'W/"x", {tag}')
            prober.expect(again.status_code == 304, "an unchanged list is sent again", again)
            part = _get(prober, path, user, f'{tag.partition("-")[0]}"')
            prober.expect(part.content == first.content, "a part of a tag hides a list", part)
            for stale in seen:
                answer = _get(prober, path, user, stale)
                prober.expect(answer.content == first.content, "an old tag hides a list", answer)
            seen.append(tag)
            foreign = _get(prober, path, context.owner, tag)
            prober.expect(foreign.status_code == 200, "a tag is valid for another user", foreign)
            for other in set(LISTS) - {query}:
                answer = _get(prober, f"{TASKS}?{other}", user, tag)
                prober.expect(answer.status_code == 200, "a tag is valid for another list", answer)
    prober.expect(len(set(seen)) == len(seen), "a change keeps the tag of a list")
