"""What a page on another origin can do with clients/typescript/tasks.ts, in a real browser."""

import json
import re
import uuid
from collections.abc import Iterator

import pytest

from tests.better_auth.server import PASSWORD, BetterAuth
from tests.environment import Sql
from tests.frontend.browser import Browser, Page
from tests.frontend.conftest import elsewhere, page_for, signed_up
from tests.frontend.cutting_proxy import CuttingProxy, cutting_proxy
from tests.http.test_cors import EXPOSED
from tests.process.service import Service
from tests.support import TASKS, wait_until

# What scripts may read of any answer: https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name
SAFELISTED = {
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
}


def send(page: Page, method: str, path: str, **headers: str) -> dict[str, dict[str, str]]:
    """What the page's own `fetch` gives it to read."""
    authorization = {"Authorization": f"Bearer {page.do('token')}", "Content-Type": "application/json"}
    body = {"body": '{"title": "Water the plants"}'} if method == "POST" else {}
    answer: dict[str, dict[str, str]] = page.do(
        "send", path, {"method": method, "headers": authorization | headers, **body}
    )
    return answer


@pytest.mark.spec("cors.preflight", "tasks.create.created")
def test_a_task_is_created_edited_completed_deleted_and_restored(ann: Page) -> None:
    task = ann.do("create", {"title": "Water the plants", "tags": ["home"]})
    assert ann.do("get", task["id"]) == task
    edited = ann.do("replace", task["id"], {"title": "Feed the cat", "priority": "high"})
    assert (edited["title"], edited["priority"], edited["tags"]) == ("Feed the cat", "high", [])
    completed = ann.do("update", task["id"], {"completed": True})
    assert (edited["completed_at"], completed["completed"], completed["version"]) == (None, True, 3)
    assert completed["completed_at"] > edited["updated_at"]
    ann.do("delete", task["id"])
    gone = ann.refused("get", task["id"])
    assert (gone.problem["status"], gone.problem["type"]) == (404, "/problems/not-found")
    restored = ann.do("restore", task["id"], 3)
    assert restored == ann.do("get", task["id"]) == {**restored, "title": "Feed the cat", "version": 4}


@pytest.mark.spec("tasks.list.next", "tasks.list.paging", "cors.expose")
def test_pages_follow_each_other_by_their_links(ann: Page) -> None:
    created = [ann.do("create", {"title": f"{n}", "completed": n == 3}) for n in range(5)][::-1]
    assert ann.do("pages", 2) == [created[:2], created[2:4], created[4:]]
    assert ann.do("pages", 5) == [created]
    assert ann.do("pages") == [created]
    assert ann.do("pages", 1, True) == [[created[1]]]


@pytest.mark.spec("tasks.list.tag", "tasks.list.priority", "tasks.list.sort")
def test_all_tasks_of_a_filter_are_iterated(ann: Page) -> None:
    for number in range(5):
        ann.do(
            "create", {"title": str(number), "tags": ["a,b", "c"] if number else ["c"], "priority": "high"}
        )
    found = ann.do("all", {"tag": ["a,b", "c"], "priority": ["high", "low"], "sort": "created", "limit": 2})
    assert found == ["1", "2", "3", "4"]


@pytest.mark.spec("http.if-match", "cors.preflight", "cors.expose")
def test_a_conflict_is_an_error_of_its_own(ann: Page) -> None:
    task = ann.do("create", {"title": "Water the plants"})
    assert ann.do("conflict", task["id"], 1) == "changed"
    assert re.fullmatch(r'"\d+-[\w-]{8}"', ann.do("conflict", task["id"], 1))
    refusal = ann.refused("delete", task["id"], 1)
    assert (refusal.problem["status"], refusal.problem["type"]) == (412, "/problems/precondition-failed")
    ann.do("delete", task["id"], 2)


@pytest.mark.spec("tasks.isolation", "tasks.list.own")
def test_users_see_only_their_own_tasks(ann: Page, bob: Page) -> None:
    task = ann.do("create", {"title": "Ann's"})
    assert ann.do("pages") == [[task]]
    assert bob.do("pages") == [[]]
    assert bob.refused("update", task["id"], {"title": "Bob's"}).problem["status"] == 404


@pytest.mark.spec("http.etag", "http.etag.lists", "http.if-none-match", "tasks.isolation")
def test_the_browsers_cache_never_shows_a_user_the_tasks_of_another(visitor: Page, api: Service) -> None:
    """Two people sign in one after the other; the browser revalidates what it has stored."""

    def read(token: str, path: str) -> object:
        return visitor.do("send", path, {"headers": {"Authorization": f"Bearer {token}"}})["body"]

    def answers() -> list[object]:
        return [
            line["status"] for line in api.lines() if line.get("route") in (TASKS, f"{TASKS}/{{task_id}}")
        ]

    tokens = []
    for _ in range(2):
        visitor.do("signUp", f"{uuid.uuid4()}@example.com", PASSWORD)
        tokens.append(visitor.do("token"))
        visitor.do("signOut")
    ann, bob = tokens
    task = visitor.do("send", TASKS, {
        "method": "POST", "body": '{"title": "Of Ann"}',
        "headers": {"Authorization": f"Bearer {ann}", "Content-Type": "application/json"},
    })["body"]  # fmt: skip
    before = len(answers())
    for path, content in ((TASKS, [task]), (f"{TASKS}/{task['id']}", task)):
        assert read(ann, path) == read(ann, path) == content
        other = read(bob, path)
        assert other == [] or (isinstance(other, dict) and other["status"] == 404)
        assert read(ann, path) == content
    wait_until(lambda: len(answers()) >= before + 8, "a request did not reach the service")
    assert answers()[before:].count(304) >= 2


def test_who_is_not_signed_in_gets_no_token(visitor: Page) -> None:
    assert visitor.error("pages") == "Error: not signed in"


@pytest.mark.spec("auth.exp", "auth.invalid")
def test_an_expired_token_is_renewed_once(ann: Page, site: BetterAuth) -> None:
    site.deploy(expirationTime="-1 hour")
    refusal = ann.refused("pages")
    assert refusal.problem["detail"] == "The token has expired."
    assert 'error="invalid_token"' in refusal.headers["www-authenticate"]
    assert ann.do("tokensFetched") == 2
    site.deploy()
    assert ann.do("pages") == [[]]
    assert ann.do("tokensFetched") == 3
    ann.do("pages")
    assert ann.do("tokensFetched") == 3


@pytest.mark.spec("auth.signed-out")
def test_a_token_in_hand_outlives_the_session(ann: Page) -> None:
    assert ann.do("pages") == [[]]
    ann.do("signOut")
    assert ann.do("pages") == [[]]


@pytest.mark.spec("cors.allowed", "problems.errors")
def test_a_422_says_which_fields_are_wrong(ann: Page) -> None:
    refusal = ann.refused("create", {"title": " ", "priority": "urgent"})
    assert refusal.problem["status"] == 422
    assert {each["pointer"] for each in refusal.problem["errors"]} == {"/title", "/priority"}
    assert refusal.message == f"{refusal.problem['title']}: {refusal.problem['detail']}"


@pytest.mark.spec("cors.allowed", "problems.unforeseen")
def test_a_500_can_be_read(ann: Page, damage: Sql) -> None:
    """A statement that the database refuses, and a row that Python cannot read."""
    damage("ALTER TABLE tasks ADD CONSTRAINT damage CHECK (title <> 'refused') NOT VALID")
    damage("ALTER TABLE tasks DROP CONSTRAINT ck_tasks_due_at_range")
    task = ann.do("create", {"title": "Water the plants"})
    damage("UPDATE tasks SET due_at = '20000-01-01' WHERE id = %s", task["id"])
    for act in (("create", {"title": "refused"}), ("get", task["id"])):
        refusal = ann.refused(*act)
        assert (refusal.problem["status"], refusal.problem["type"]) == (500, "/problems/internal-error")
        assert refusal.problem["instance"] == refusal.headers["x-request-id"]


@pytest.mark.spec("cors.expose", "tasks.create.created", "tasks.list.next", "headers.request-id")
def test_the_headers_it_may_see(ann: Page) -> None:
    created = send(ann, "POST", TASKS)
    assert created["headers"]["location"] == f"{TASKS}/{created['body']['id']}"
    assert re.fullmatch("[0-9a-f]{32}", created["headers"]["x-request-id"])
    send(ann, "POST", TASKS)
    listed = send(ann, "GET", f"{TASKS}?limit=1", **{"X-Request-ID": "the-page-s-own"})
    assert re.fullmatch(rf'<{TASKS}\?limit=1&cursor=[^>]+>; rel="next"', listed["headers"]["link"])
    assert listed["headers"]["x-request-id"] == "the-page-s-own"
    for answer in (created, listed):
        assert set(answer["headers"]) <= {name.lower() for name in EXPOSED} | SAFELISTED


@pytest.fixture
def cut(browser: Browser, site: BetterAuth, api: Service) -> Iterator[tuple[Page, CuttingProxy]]:
    """The page of somebody who has signed up, and the proxy through which it reaches the API."""
    site.deploy()
    with cutting_proxy(api) as proxy:
        yield signed_up(page_for(browser, site.url, proxy), "ann"), proxy


@pytest.mark.spec("tasks.create.key", "cors.preflight")
def test_a_create_whose_answer_is_lost_is_sent_again(cut: tuple[Page, CuttingProxy]) -> None:
    ann, proxy = cut
    proxy.cuts += [b"POST /api/tasks"] * 2
    task = ann.do("create", {"title": "Water the plants"})
    assert proxy.cuts == []
    assert ann.do("pages") == [[task]]


@pytest.mark.spec("changes.page", "changes.wait", "changes.expired")
def test_changes_are_followed_until_the_position_expires(ann: Page) -> None:
    task = ann.do("create", {"title": "Water the plants"})
    first = ann.do("changes")
    assert first["tasks"] == [task]
    changed = ann.do("update", task["id"], {"completed": True})
    page = ann.do("changes", first["position"], 25)
    assert page["tasks"] == [changed]
    assert ann.do("changes", page["position"], 1)["tasks"] == []
    ann.do("deleteAccount")
    assert ann.refused("changes", first["position"]).problem["type"] == "/problems/sync-expired"


@pytest.mark.spec("batch.key", "batch.results")
def test_a_batch_whose_answers_are_lost_is_applied_once(cut: tuple[Page, CuttingProxy]) -> None:
    ann, proxy = cut
    task = ann.do("create", {"title": "Water the plants"})
    proxy.cuts += [b"POST /api/tasks/batch"] * 2
    update = {"op": "update", "id": task["id"], "if_version": 1, "task": {"completed": True}}
    changed, created = ann.do("batch", [update, {"op": "create", "task": {"title": "Feed the cat"}}], True)
    assert proxy.cuts == []
    assert (changed["status"], changed["task"]["version"], created["status"]) == (200, 2, 201)
    assert ann.do("pages") == [[created["task"], changed["task"]]]
    assert [each["status"] for each in ann.do("batch", [update])] == [412]
    refusal = ann.refused("batch", [update], True)
    assert refusal.problem["errors"][0]["type"] == "/problems/precondition-failed"


@pytest.mark.spec("account.export", "account.erase")
def test_an_account_is_exported_and_deleted(ann: Page) -> None:
    tasks = [ann.do("create", {"title": f"{number}"}) for number in range(2)]
    assert [json.loads(line) for line in ann.do("exportAccount").splitlines()] == tasks
    ann.do("deleteAccount")
    assert ann.do("exportAccount") == ""


@pytest.mark.spec("tasks.restore.again")
def test_changes_whose_answers_are_lost_are_sent_again(cut: tuple[Page, CuttingProxy]) -> None:
    ann, proxy = cut
    task = ann.do("create", {"title": "Water the plants"})
    proxy.cuts += [b"GET ", b"PUT ", b"PATCH ", b"DELETE ", b"POST "]
    assert ann.do("get", task["id"]) == task
    ann.do("replace", task["id"], {"title": "Feed the cat"})
    assert ann.do("update", task["id"], {"completed": True})["title"] == "Feed the cat"
    ann.do("delete", task["id"])
    assert ann.do("restore", task["id"])["completed"] is True
    assert proxy.cuts == []


@pytest.mark.spec("http.if-match")
def test_a_change_of_a_version_is_not_sent_again(cut: tuple[Page, CuttingProxy]) -> None:
    ann, proxy = cut
    task = ann.do("create", {"title": "Water the plants"})
    proxy.cuts.append(b"PATCH ")
    assert ann.error("update", task["id"], {"completed": True}, 1) == "TypeError: Failed to fetch"
    assert ann.do("get", task["id"])["version"] == 2


@pytest.mark.spec("limits.headers", "cors.expose")
def test_a_429_says_when_to_try_again(browser: Browser, site: BetterAuth, narrow_api: Service) -> None:
    site.deploy()
    ann = signed_up(page_for(browser, site.url, narrow_api), "ann")
    for _ in range(2):
        ann.do("pages")
    refusal = ann.refused("pages")
    assert refusal.problem["type"] == "/problems/too-many-requests"
    assert 1 <= int(refusal.headers["retry-after"]) <= 3600
    assert refusal.headers["ratelimit"].startswith('"requests";r=0;t=')


@pytest.mark.spec("cors.refused")
def test_a_page_on_another_origin_reads_and_writes_nothing(
    browser: Browser, site: BetterAuth, api: Service, ann: Page
) -> None:
    """Not even with a good token in its hands."""
    headers = {"Authorization": f"Bearer {ann.do('token')}", "Content-Type": "application/json"}
    intruder = page_for(browser, elsewhere(site), api)
    for path, init in (
        (TASKS, {"headers": headers}),
        (TASKS, {"headers": headers, "method": "POST", "body": '{"title": "Stolen"}'}),
        (f"{TASKS}/nowhere", {"headers": headers, "method": "DELETE"}),
        ("/health/live", {}),
        ("/nowhere", {}),
    ):
        assert intruder.error("send", path, init) == "TypeError: Failed to fetch"
    assert ann.do("pages") == [[]]


@pytest.mark.spec("cors.allowed")
def test_several_origins_may_be_allowed(browser: Browser, site: BetterAuth, narrow_api: Service) -> None:
    """And nothing but the list of origins stands between the API and the page above."""
    for url in (site.url, elsewhere(site)):
        assert page_for(browser, url, narrow_api).do("send", "/health/live", {})["body"] == {"status": "live"}
