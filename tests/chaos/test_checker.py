"""The checker of `make chaos`: it finds every kind of fault, and nothing in what is right."""

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.checker import (
    Fault,
    Kind,
    Operation,
    Outcome,
    check,
    content,
    distinct,
    doubles_from_retries,
    marker,
)

FIRST, SECOND, THIRD = (marker("ann", number) for number in (1, 2, 3))


@dataclass
class Story:
    """What happened to the tasks of some users, and what is stored in the end."""

    history: list[Operation] = field(default_factory=list)
    stored: list[dict[str, Any]] = field(default_factory=list)

    def did(
        self,
        kind: Kind,
        task: str | None,
        mark: str | None = None,
        outcome: Outcome = Outcome.ACKNOWLEDGED,
        version: int | None = None,
        user: str = "ann",
    ) -> None:
        self.history.append(Operation(user, kind, outcome, task, mark, version))

    def created(self, task: str, mark: str, user: str = "ann") -> None:
        self.did(Kind.CREATE, task, mark, version=1, user=user)

    def holds(self, task: str, mark: str, version: int = 1, user: str = "ann", **changes: object) -> None:
        self.stored.append({"id": task, "user_id": user, "version": version, **content(mark), **changes})

    def faults(self) -> set[Fault]:
        """Found by the API alone, and by the database alone: both find the same."""
        users = {operation.user for operation in self.history}
        seen = {user: [task for task in self.stored if task["user_id"] == user] for user in users}
        found = {each.fault for each in check(self.history, seen, self.stored)}
        assert {each.fault for each in check(self.history, {}, self.stored)} == found
        return found


def test_what_was_acknowledged_and_is_stored_is_right() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.UPDATE, "a", SECOND, version=2)
    story.created("b", THIRD)
    story.did(Kind.DELETE, "b")
    story.holds("a", SECOND, version=2)
    assert story.faults() == set()


def test_it_finds_a_lost_create() -> None:
    story = Story()
    story.created("a", FIRST)
    assert story.faults() == {Fault.LOST}


def test_it_finds_a_lost_update() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.REPLACE, "a", SECOND, version=2)
    story.holds("a", FIRST)
    assert story.faults() == {Fault.LOST}


def test_it_finds_a_lost_delete() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.DELETE, "a")
    story.holds("a", FIRST)
    assert story.faults() == {Fault.LOST}


def test_it_finds_a_change_that_did_not_raise_the_version() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.UPDATE, "a", SECOND, version=2)
    story.holds("a", SECOND, version=1)
    assert story.faults() == {Fault.LOST}


def test_it_finds_a_task_that_answers_404() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.GET, "a", outcome=Outcome.MISSING)
    story.holds("a", FIRST)
    assert story.faults() == {Fault.LOST}


def test_it_finds_a_double_insert() -> None:
    story = Story()
    story.created("a", FIRST)
    story.holds("a", FIRST)
    story.holds("b", FIRST)
    assert story.faults() == {Fault.DOUBLE}


def test_it_finds_a_task_that_moved_to_another_user() -> None:
    story = Story()
    story.created("a", FIRST)
    story.created("b", marker("bob", 1), user="bob")
    story.holds("a", FIRST, user="bob")
    story.holds("b", marker("bob", 1), user="bob")
    assert story.faults() == {Fault.LOST, Fault.WRONG_OWNER}


def test_it_finds_a_task_that_moved_to_a_user_who_never_came() -> None:
    story = Story()
    story.created("a", FIRST)
    story.holds("a", FIRST, user="carol")
    assert story.faults() == {Fault.LOST, Fault.WRONG_OWNER}


def test_it_finds_the_content_of_another_user() -> None:
    story = Story()
    story.created("a", FIRST)
    story.holds("a", marker("bob", 2))
    assert Fault.WRONG_OWNER in story.faults()


def test_it_finds_a_mixture_of_two_writes() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.UPDATE, "a", SECOND, version=2)
    story.holds("a", SECOND, version=2, tags=content(FIRST)["tags"])
    assert story.faults() == {Fault.HALF_APPLIED}


def test_it_finds_a_write_that_was_refused_and_made() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.UPDATE, "a", SECOND, Outcome.REFUSED)
    story.holds("a", SECOND, version=2)
    assert story.faults() == {Fault.LOST}


def test_it_finds_a_write_that_was_made_twice() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.UPDATE, "a", SECOND, version=2)
    story.holds("a", SECOND, version=3)
    assert story.faults() == {Fault.UNASKED}


def test_it_finds_a_task_that_was_never_asked_for() -> None:
    story = Story()
    story.created("a", FIRST)
    story.holds("a", FIRST)
    story.holds("b", marker("ann", 9))
    assert story.faults() == {Fault.UNASKED}


def test_an_unknown_outcome_leaves_two_states() -> None:
    for mark, version in ((FIRST, 1), (SECOND, 2)):
        story = Story()
        story.created("a", FIRST)
        story.did(Kind.UPDATE, "a", SECOND, Outcome.UNKNOWN)
        story.holds("a", mark, version)
        assert story.faults() == set()


def test_a_change_of_unknown_outcome_may_be_made_after_later_ones() -> None:
    story = Story()
    story.created("a", FIRST)
    story.did(Kind.UPDATE, "a", SECOND, Outcome.UNKNOWN)
    story.did(Kind.UPDATE, "a", THIRD, version=2)
    story.holds("a", SECOND, version=3)
    assert story.faults() == set()


def test_a_delete_of_unknown_outcome_leaves_two_states() -> None:
    for stored in (True, False):
        story = Story()
        story.created("a", FIRST)
        story.did(Kind.DELETE, "a", outcome=Outcome.UNKNOWN)
        if stored:
            story.holds("a", FIRST)
        assert story.faults() == set()


def test_a_create_that_was_sent_again_may_be_there_twice_and_is_counted() -> None:
    story = Story()
    story.did(Kind.CREATE, None, FIRST, Outcome.UNKNOWN)
    story.created("b", FIRST)
    story.holds("a", FIRST)
    story.holds("b", FIRST)
    assert story.faults() == set()
    assert doubles_from_retries(story.history, story.stored) == 1
    story.holds("c", FIRST)
    assert story.faults() == {Fault.DOUBLE}


def test_a_fault_that_is_found_several_times_counts_once() -> None:
    story = Story()
    story.created("a", FIRST)
    assert len(check(story.history, {"ann": []}, [])) == 2
    assert len(distinct(check(story.history, {"ann": []}, []))) == 1
