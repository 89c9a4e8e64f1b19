"""The filters of the list: each alone, combined, and with hostile values."""

import pytest

from tests.support import TASKS, Caller, assert_problem, error_locations, ok

DAY = "2030-05-17T00:00:00Z"


def filtered(caller: Caller, **query: object) -> list[str]:
    """The titles of the tasks that match, in order of the titles."""
    response = caller.request("GET", TASKS, params=query)
    assert response.status_code == 200, response.text
    return sorted(task["title"] for task in response.json())


@pytest.mark.spec("tasks.list.priority")
def test_priority_takes_any_of_several(owner: Caller) -> None:
    for priority in ("low", "medium", "high"):
        owner.create(title=priority, priority=priority)
    assert filtered(owner, priority="high") == ["high"]
    assert filtered(owner, priority="low,high") == ["high", "low"]
    assert filtered(owner, priority="high,high,medium,low") == ["high", "low", "medium"]


@pytest.mark.spec("tasks.list.tag", "tasks.list.any-tag")
def test_tags_are_all_or_any_of_several(owner: Caller) -> None:
    owner.create(title="both", tags=["a,b", "c"])
    owner.create(title="one", tags=["a,b"])
    owner.create(title="none", tags=["A,B"])
    assert filtered(owner, tag="a,b") == ["both", "one"]
    assert filtered(owner, tag=["a,b", "c"]) == ["both"]
    assert filtered(owner, any_tag=["c", "A,B"]) == ["both", "none"]
    assert filtered(owner, tag="c", any_tag="A,B") == []


@pytest.mark.spec("tasks.list.due")
def test_due_is_none_or_any(owner: Caller) -> None:
    owner.create(title="dated", due_at=DAY)
    owner.create(title="undated")
    assert filtered(owner, due="none") == ["undated"]
    assert filtered(owner, due="any") == ["dated"]
    for sort in ("due", "-due"):
        assert filtered(owner, due="none", sort=sort) == ["undated"]
        assert filtered(owner, due="any", sort=sort) == ["dated"]


@pytest.mark.spec("tasks.list.ranges")
def test_a_range_includes_its_beginning_and_not_its_end(owner: Caller) -> None:
    for hour in range(3):
        owner.create(title=str(hour), due_at=f"2030-05-17T0{hour}:00:00Z")
    owner.create(title="undated")
    assert filtered(owner, due_from="2030-05-17T01:00:00Z") == ["1", "2"]
    assert filtered(owner, due_before="2030-05-17T01:00:00Z") == ["0"]
    assert filtered(owner, due_from="2030-05-17T03:00:00+02:00", due_before="2030-05-17T02:00:00Z") == ["1"]


@pytest.mark.spec("tasks.list.ranges")
@pytest.mark.parametrize("name", ["created", "updated"])
def test_ranges_of_the_times_of_the_service(owner: Caller, name: str) -> None:
    first, second = owner.create(title="first"), owner.create(title="second")
    assert first[f"{name}_at"] < second[f"{name}_at"]
    assert filtered(owner, **{f"{name}_from": second[f"{name}_at"]}) == ["second"]
    assert filtered(owner, **{f"{name}_before": second[f"{name}_at"]}) == ["first"]


@pytest.mark.spec("tasks.list.ranges")
def test_a_change_moves_a_task_to_a_later_range(owner: Caller) -> None:
    first, second = owner.create(title="first"), owner.create(title="second")
    changed = ok(owner.patch(first["id"], {"completed": True}))
    assert filtered(owner, updated_from=changed["updated_at"]) == ["first"]
    assert filtered(owner, updated_before=changed["updated_at"]) == ["second"]
    assert filtered(owner, created_before=second["created_at"]) == ["first"]


@pytest.mark.spec("tasks.list.q")
@pytest.mark.parametrize(
    ("text", "q"),
    [
        ("À l'ÉCOLE primaire", "ecole"),
        ("Ecole", "ÉCOLE"),
        ("Die straße", "STRASSE"),
        ("STRASSE", "straße"),
        ("これは緊急の用件です", "緊急"),
        ("only 100% of it", "100%"),
        ("the file a_b.txt", "a_b"),
        (r"C:\temp\new", r"temp\new"),
        ("Call the bank", "ank all"),
        ("ﬁle", "FILE"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("five six seven eight nine", "nine eight seven six five"),
    ],
)
def test_search_ignores_case_and_accents(owner: Caller, text: str, q: str) -> None:
    owner.create(title=text)
    owner.create(title="x", description=text)
    owner.create(title="other", description="nothing of it")
    assert filtered(owner, q=q) == sorted([text, "x"])


@pytest.mark.spec("tasks.list.q")
@pytest.mark.parametrize(
    ("text", "q"),
    [("100 percent", "100%"), ("axb", "a_b"), ("abc", "a%c"), ("ab", "a b c"), ("a\\b", "a\\\\b")],
)
def test_search_takes_wildcards_literally(owner: Caller, text: str, q: str) -> None:
    owner.create(title=text)
    assert filtered(owner, q=q) == []


@pytest.mark.spec("tasks.list.q")
def test_each_word_can_be_in_either_field_but_not_across_both(owner: Caller) -> None:
    owner.create(title="Call the bank", description="About the loan")
    assert filtered(owner, q="bank loan") == ["Call the bank"]
    assert filtered(owner, q="bankabout") == []


@pytest.mark.spec("tasks.list.q")
def test_search_finds_the_current_text(owner: Caller) -> None:
    task = owner.create(title="old title", description="old text")["id"]
    owner.patch(task, {"title": "new title"})
    assert filtered(owner, q="old") == ["new title"]
    owner.patch(task, {"description": None})
    assert filtered(owner, q="old") == []
    owner.put(task, {"title": "x", "description": "NEW"})
    assert filtered(owner, q="new") == ["x"]


@pytest.mark.spec("tasks.list.combined")
def test_filters_are_combined(owner: Caller) -> None:
    owner.create(title="a", tags=["x"], priority="high", completed=True)
    owner.create(title="b", tags=["x"], priority="high")
    owner.create(title="c", tags=["x"], priority="low")
    assert filtered(owner, tag="x", priority="high", completed="false") == ["b"]


@pytest.mark.spec("tasks.list.deleted")
def test_the_trash_has_the_deleted_tasks_only(owner: Caller, stranger: Caller) -> None:
    kept, first, second = (owner.create(title=title)["id"] for title in ("kept", "first", "second"))
    for task in (second, first):
        owner.delete(task)
    response = owner.get(f"{TASKS}?deleted=true")
    assert [task["id"] for task in response.json()] == [first, second]
    assert all(task["deleted_at"] for task in response.json())
    assert owner.ids("?deleted=true&sort=updated") == [second, first]
    assert owner.ids("?deleted=false") == owner.ids() == [kept]
    assert stranger.ids("?deleted=true") == []


@pytest.mark.spec("tasks.list.values")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", ""),
        ("priority", "urgent"),
        ("priority", "high,"),
        ("priority", "High"),
        ("priority", "high, low"),
        ("tag", ""),
        ("tag", "x" * 51),
        ("tag", "\0"),
        ("tag", ["x"] * 2),
        ("tag", [str(number) for number in range(21)]),
        ("any_tag", [str(number) for number in range(400)]),
        ("due", "today"),
        ("due", ""),
        ("due_from", "2030-05-17"),
        ("due_from", "2030-05-17T00:00:00"),
        ("due_from", "0001-01-01T00:00:00Z"),
        ("due_before", "9999-12-31T23:59:59-14:00"),
        ("created_from", "now"),
        ("updated_before", "infinity"),
        ("q", ""),
        ("q", " \u3000"),
        ("q", "\0"),
        ("q", "x" * 201),
        ("q", "a b c d e f"),
        ("deleted", "yes"),
        ("sort", "title"),
        ("sort", "--due"),
        ("sort", "+due"),
        ("sort", ""),
        ("sort", "due,created"),
    ],
)
def test_invalid_values_name_their_parameter(owner: Caller, name: str, value: object) -> None:
    assert error_locations(owner.request("GET", TASKS, params={name: value})) == {name}


@pytest.mark.spec("problems.errors")
def test_an_error_is_listed_once(owner: Caller) -> None:
    problem = assert_problem(owner.get(f"{TASKS}?tag=&tag=&tag="), 422, "invalid-request")
    assert problem["errors"] == [{"parameter": "tag"}]


@pytest.mark.spec("tasks.list.conflicts")
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("due_from=2030-01-02T00:00:00Z&due_before=2030-01-01T00:00:00Z", "due_before"),
        ("created_from=2030-01-01T00:00:00Z&created_before=2030-01-01T00:00:00Z", "created_before"),
        ("updated_before=2030-01-01T00:00:00Z&updated_from=2030-01-01T00:00:00Z", "updated_before"),
        ("due=none&due_from=2030-01-01T00:00:00Z", "due_from"),
        ("due_before=2030-01-01T00:00:00Z&due=none", "due_before"),
        ("deleted=true&completed=false", "deleted"),
        ("deleted=true&q=x", "deleted"),
        ("deleted=true&sort=-due", "sort"),
    ],
)
def test_contradictions_name_a_parameter(owner: Caller, query: str, name: str) -> None:
    problem = assert_problem(owner.get(f"{TASKS}?{query}"), 409, "conflicting-parameters")
    assert [each["parameter"] for each in problem["errors"]] == [name]


@pytest.mark.spec("tasks.list.values")
def test_invalid_values_come_before_contradictions(owner: Caller) -> None:
    assert error_locations(owner.get(f"{TASKS}?deleted=true&sort=-due&limit=0")) == {"sort", "limit"}
