"""Conditional requests: entity tags, If-None-Match and If-Match."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request

from problems import ProblemError
from tests.conftest import Serve
from tests.operations import CHANGING_ONE_TASK, ON_ONE_TASK, ON_TASKS, Operation, each
from tests.support import TASKS, Caller, assert_problem, client_as, ok
from web.preconditions import parse

MALFORMED = ("5", "abc", '"5', '5"', '"5" "6"', "**", '*, "5"', '"a\x7fb"', 'w/"5"', "W/5", '"a"b"')


def tag_of(caller: Caller, task: str) -> str:
    return str(caller.get(f"{TASKS}/{task}").headers["etag"])


@pytest.mark.spec("http.etag")
@each(tuple(each for each in ON_TASKS if each.tagged and each.name != "list_tasks"))
def test_every_answer_with_a_task_has_its_tag(owner: Caller, operation: Operation) -> None:
    task = owner.create()["id"]
    response = operation.send(owner, task)
    if operation.name == "delete_task":
        assert "etag" not in response.headers
    else:
        body = response.json()
        assert response.headers["etag"] == tag_of(owner, body["id"])


@pytest.mark.spec("http.etag")
def test_a_change_changes_the_tag(owner: Caller) -> None:
    task = owner.create()["id"]
    first = tag_of(owner, task)
    assert tag_of(owner, task) == first
    owner.patch(task, {"title": "x"})
    assert tag_of(owner, task) != first


@pytest.mark.spec("http.etag")
def test_two_users_never_share_a_tag(owner: Caller, stranger: Caller) -> None:
    tags = [tag_of(caller, caller.create()["id"]) for caller in (owner, stranger)]
    assert tags[0] != tags[1]


@pytest.mark.spec("http.if-none-match")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', '{} , W/"y"', "*"])
def test_a_known_task_is_not_sent_again(owner: Caller, method: str, form: str) -> None:
    task = owner.create()["id"]
    tag = tag_of(owner, task)
    headers = {"If-None-Match": form.format(tag)}
    response = owner.request(method, f"{TASKS}/{task}", headers=headers)
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == tag
    assert response.headers["cache-control"] == "private, no-cache"
    assert "Authorization" in response.headers["vary"]
    assert "content-type" not in response.headers


@pytest.mark.spec("http.if-none-match")
def test_a_changed_task_is_sent(owner: Caller) -> None:
    task = owner.create()["id"]
    tag = tag_of(owner, task)
    owner.patch(task, {"title": "x"})
    response = owner.get(f"{TASKS}/{task}", headers={"If-None-Match": tag})
    assert ok(response)["title"] == "x"


@pytest.mark.spec("http.if-none-match")
def test_a_version_alone_is_no_tag_of_a_response(owner: Caller) -> None:
    """It would be equal for two users who have a task of the same ID."""
    task = owner.create()["id"]
    assert ok(owner.get(f"{TASKS}/{task}", headers={"If-None-Match": '"1"'}))


@pytest.mark.spec("http.if-match")
@each(CHANGING_ONE_TASK)
@pytest.mark.parametrize("form", ["{}", '"x", {}', "{}\t,\t{}", "*", '"1"', '"7", "1"', "{},", ", ,\t{}"])
def test_a_matching_tag_lets_the_change_through(owner: Caller, operation: Operation, form: str) -> None:
    task = owner.create()["id"]
    headers = {"If-Match": form.format(*[tag_of(owner, task)] * 2)}
    assert operation.send(owner, task, headers=headers).status_code == operation.status


@pytest.mark.spec("http.if-match")
@each(CHANGING_ONE_TASK)
@pytest.mark.parametrize(
    "form",
    [
        "",
        ", ,",
        '"2"',
        "W/{}",
        'W/"1"',
        '"01"',
        '"1.0"',
        '"-1"',
        '""',
        '"1-AAAAAAAA"',
        f'"{10**9}"',
        f'"{10**30}"',
    ],
)
def test_another_tag_changes_nothing(owner: Caller, operation: Operation, form: str) -> None:
    task = owner.create()
    tag = tag_of(owner, task["id"])
    response = operation.send(owner, task["id"], headers={"If-Match": form.format(tag)})
    assert_problem(response, 412, "precondition-failed")
    assert response.headers["etag"] == tag
    assert owner.read(task["id"]) == task


@pytest.mark.spec("http.if-match")
def test_another_users_tag_does_not_match(owner: Caller, stranger: Caller) -> None:
    task, other = owner.create()["id"], stranger.create()["id"]
    headers = {"If-Match": tag_of(stranger, other)}
    assert_problem(owner.patch(task, {"title": "x"}, headers=headers), 412, "precondition-failed")


@pytest.mark.spec("http.if-match", "tasks.isolation")
@each(CHANGING_ONE_TASK)
@pytest.mark.parametrize("tag", ["*", '"1"', '"2"'])
def test_a_missing_task_is_not_found_whatever_the_tag(
    owner: Caller, stranger: Caller, operation: Operation, tag: str
) -> None:
    task, gone = owner.create()["id"], stranger.create()["id"]
    stranger.delete(gone)
    for missing in (task, gone):
        response = operation.send(stranger, missing, headers={"If-Match": tag})
        assert_problem(response, 404, "not-found")
        assert "etag" not in response.headers


@pytest.mark.spec("http.if-match", "tasks.update.empty")
def test_an_empty_patch_also_has_a_precondition(owner: Caller) -> None:
    task = owner.create()["id"]
    assert owner.patch(task, {}, headers={"If-Match": '"1"'}).status_code == 200
    assert_problem(owner.patch(task, {}, headers={"If-Match": '"2"'}), 412, "precondition-failed")


@pytest.mark.spec("http.if-match", "tasks.concurrent")
def test_one_of_many_racing_changes_wins(owner: Caller) -> None:
    """The others learn of the version that won, and not of the one that they named."""
    task = owner.create()["id"]
    headers = {"If-Match": tag_of(owner, task)}
    with ThreadPoolExecutor(20) as threads:
        changes = [
            threads.submit(owner.patch, task, {"title": f"t{number}"}, headers=headers)
            for number in range(20)
        ]
    responses = [change.result() for change in changes]
    assert sorted(response.status_code for response in responses) == [200, *[412] * 19]
    assert {response.headers["etag"] for response in responses} == {tag_of(owner, task)}
    assert owner.read(task)["version"] == 2


@pytest.mark.spec("http.preconditions.malformed")
@pytest.mark.parametrize("value", MALFORMED)
@each(ON_ONE_TASK)
def test_a_malformed_header_is_refused(owner: Caller, operation: Operation, value: str) -> None:
    task = owner.create()
    header = "If-None-Match" if operation.method == "GET" else "If-Match"
    response = operation.send(owner, task["id"], headers={header: value})
    assert_problem(response, 400, "invalid-precondition")
    assert owner.read(task["id"]) == task


@pytest.mark.spec("http.preconditions.malformed")
@pytest.mark.parametrize(
    "value", [" ,\t" * 2_000 + "x", " " * 8_000 + "x", '"' + "," * 8_000, '"a",' * 2_000 + '"']
)
def test_a_malformed_list_is_refused_in_linear_time(value: str) -> None:
    request = Request({"type": "http", "headers": [(b"if-match", value.encode())]})
    began_at = time.process_time()
    with pytest.raises(ProblemError):
        parse(request, "If-Match")
    assert time.process_time() - began_at < 1


@pytest.mark.spec("http.if-match")
def test_a_list_of_thousands_of_tags_is_cheap(owner: Caller) -> None:
    task = owner.create()["id"]
    many = ",".join(f'"{number}"' for number in range(2, 1100))
    assert_problem(owner.patch(task, {"title": "x"}, headers={"If-Match": many}), 412, "precondition-failed")


@pytest.mark.spec("http.preconditions.required")
@each(CHANGING_ONE_TASK)
def test_a_change_can_require_a_precondition(serve: Serve, operation: Operation) -> None:
    owner = client_as(serve(require_if_match=True), "careful")
    task = owner.create()
    assert_problem(operation.send(owner, task["id"]), 428, "precondition-required")
    assert owner.read(task["id"]) == task
    assert operation.send(owner, task["id"], headers={"If-Match": "*"}).is_success


@pytest.mark.spec("http.etag.lists")
@pytest.mark.parametrize("query", ["", "?sort=due&limit=1", "?deleted=true", "?q=x&tag=y"])
def test_an_unchanged_list_is_not_sent_again(owner: Caller, query: str) -> None:
    tasks = [owner.create()["id"] for _ in range(3)]
    owner.delete(tasks[0])
    first = owner.get(f"{TASKS}{query}")
    for known in (first.headers["etag"], f"W/{first.headers['etag']}", "*"):
        response = owner.get(f"{TASKS}{query}", headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == first.headers["etag"]


@pytest.mark.spec("http.etag.lists")
@each(tuple(each for each in ON_TASKS if each.writes and not each.takes_deleted))
def test_every_change_changes_the_tag_of_every_list(owner: Caller, operation: Operation) -> None:
    task = owner.create()["id"]
    tags = {query: owner.get(f"{TASKS}{query}").headers["etag"] for query in ("", "?deleted=true", "?q=none")}
    assert operation.send(owner, task).is_success
    for query, tag in tags.items():
        response = owner.get(f"{TASKS}{query}", headers={"If-None-Match": tag})
        assert response.status_code == 200
        assert response.headers["etag"] != tag


@pytest.mark.spec("http.etag.lists")
def test_the_tag_of_an_empty_list_changes_with_the_first_task(owner: Caller) -> None:
    tag = owner.get(TASKS).headers["etag"]
    assert owner.get(TASKS, headers={"If-None-Match": tag}).status_code == 304
    task = owner.create()
    assert owner.get(TASKS, headers={"If-None-Match": tag}).json() == [task]


@pytest.mark.spec("http.etag.lists")
def test_lists_of_two_users_or_queries_never_share_a_tag(owner: Caller, stranger: Caller) -> None:
    queries = ("", "?limit=10", "?completed=true", "?completed=false", "?sort=due", "?tag=a", "?any_tag=a")
    tags = [
        caller.get(f"{TASKS}{query}").headers["etag"] for caller in (owner, stranger) for query in queries
    ]
    assert len(set(tags)) == len(tags)


@pytest.mark.spec("http.etag.lists")
@pytest.mark.parametrize("query", ["", "?sort=due&limit=1", "?deleted=true"])
def test_a_part_of_a_lists_tag_does_not_match(owner: Caller, query: str) -> None:
    owner.create()
    owner.delete(owner.create()["id"])
    listed = owner.get(f"{TASKS}{query}")
    tag = listed.headers["etag"]
    feed, digest = tag[1:-1].split("-", 1)
    for part in (
        f'"{feed}"',
        f'W/"{feed}"',
        f'"x", "{feed}"',
        f'"{feed}-"',
        f'"-{digest}"',
        f'"{tag[1:-2]}"',
    ):
        response = owner.get(f"{TASKS}{query}", headers={"If-None-Match": part})
        assert (response.status_code, response.json()) == (200, listed.json())


@pytest.mark.spec("http.etag.lists")
def test_another_lists_tag_does_not_match(owner: Caller) -> None:
    task = owner.create()
    other = owner.get(f"{TASKS}?limit=2").headers["etag"]
    assert owner.get(TASKS, headers={"If-None-Match": other}).json() == [task]


@pytest.mark.spec("http.preconditions.malformed")
@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_header_of_a_list_is_refused(owner: Caller, value: str) -> None:
    assert_problem(owner.get(TASKS, headers={"If-None-Match": value}), 400, "invalid-precondition")
