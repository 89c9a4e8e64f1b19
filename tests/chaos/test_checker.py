"""The checker of `make chaos` detects every kind of anomaly and has no false positives."""

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.checker import (
    Anomaly,
    Kind,
    Operation,
    Outcome,
    check,
    content,
    distinct,
    duplicates_from_retries,
    marker,
)

FIRST, SECOND, THIRD = (marker("ann", number) for number in (1, 2, 3))


@dataclass
class RecordedRun:
    """A history of operations and the tasks that are stored at the end."""

    history: list[Operation] = field(default_factory=list)
    stored: list[dict[str, Any]] = field(default_factory=list)

    def record(
        self,
        kind: Kind,
        task: str | None,
        mark: str | None = None,
        outcome: Outcome = Outcome.ACKNOWLEDGED,
        version: int | None = None,
        user: str = "ann",
    ) -> None:
        self.history.append(Operation(user, kind, outcome, task, mark, version))

    def record_create(self, task: str, mark: str, user: str = "ann") -> None:
        self.record(Kind.CREATE, task, mark, version=1, user=user)

    def store(self, task: str, mark: str, version: int = 1, user: str = "ann", **changes: object) -> None:
        self.stored.append({"id": task, "user_id": user, "version": version, **content(mark), **changes})

    def anomalies(self) -> set[Anomaly]:
        """The anomalies; the API alone and the database alone must yield the same ones."""
        users = {operation.user for operation in self.history}
        seen = {user: [task for task in self.stored if task["user_id"] == user] for user in users}
        found = {each.anomaly for each in check(self.history, seen, self.stored)}
        assert {each.anomaly for each in check(self.history, {}, self.stored)} == found
        return found


def test_stored_acknowledged_writes_are_no_violation() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.UPDATE, "a", SECOND, version=2)
    run.record_create("b", THIRD)
    run.record(Kind.DELETE, "b")
    run.store("a", SECOND, version=2)
    assert run.anomalies() == set()


def test_it_reports_a_lost_create() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    assert run.anomalies() == {Anomaly.LOST}


def test_it_reports_a_lost_update() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.REPLACE, "a", SECOND, version=2)
    run.store("a", FIRST)
    assert run.anomalies() == {Anomaly.LOST}


def test_it_reports_a_lost_delete() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.DELETE, "a")
    run.store("a", FIRST)
    assert run.anomalies() == {Anomaly.LOST}


def test_it_reports_an_update_that_did_not_increment_the_version() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.UPDATE, "a", SECOND, version=2)
    run.store("a", SECOND, version=1)
    assert run.anomalies() == {Anomaly.LOST}


def test_it_reports_404_for_an_acknowledged_task() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.GET, "a", outcome=Outcome.MISSING)
    run.store("a", FIRST)
    assert run.anomalies() == {Anomaly.LOST}


def test_it_reports_a_duplicate_insert() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.store("a", FIRST)
    run.store("b", FIRST)
    assert run.anomalies() == {Anomaly.DUPLICATE}


def test_it_reports_a_task_that_moved_to_another_user() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record_create("b", marker("bob", 1), user="bob")
    run.store("a", FIRST, user="bob")
    run.store("b", marker("bob", 1), user="bob")
    assert run.anomalies() == {Anomaly.LOST, Anomaly.WRONG_OWNER}


def test_it_reports_a_task_that_moved_to_an_unknown_user() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.store("a", FIRST, user="carol")
    assert run.anomalies() == {Anomaly.LOST, Anomaly.WRONG_OWNER}


def test_it_reports_content_of_another_user() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.store("a", marker("bob", 2))
    assert Anomaly.WRONG_OWNER in run.anomalies()


def test_it_reports_a_mixture_of_two_writes() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.UPDATE, "a", SECOND, version=2)
    run.store("a", SECOND, version=2, tags=content(FIRST)["tags"])
    assert run.anomalies() == {Anomaly.HALF_APPLIED}


def test_it_reports_a_rejected_write_that_was_applied() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.UPDATE, "a", SECOND, Outcome.REFUSED)
    run.store("a", SECOND, version=2)
    assert run.anomalies() == {Anomaly.LOST}


def test_it_reports_a_write_that_was_applied_twice() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.UPDATE, "a", SECOND, version=2)
    run.store("a", SECOND, version=3)
    assert run.anomalies() == {Anomaly.UNREQUESTED}


def test_it_reports_a_task_that_was_never_requested() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.store("a", FIRST)
    run.store("b", marker("ann", 9))
    assert run.anomalies() == {Anomaly.UNREQUESTED}


def test_an_update_of_unknown_outcome_allows_two_states() -> None:
    for mark, version in ((FIRST, 1), (SECOND, 2)):
        run = RecordedRun()
        run.record_create("a", FIRST)
        run.record(Kind.UPDATE, "a", SECOND, Outcome.UNKNOWN)
        run.store("a", mark, version)
        assert run.anomalies() == set()


def test_an_update_of_unknown_outcome_may_be_applied_after_later_ones() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    run.record(Kind.UPDATE, "a", SECOND, Outcome.UNKNOWN)
    run.record(Kind.UPDATE, "a", THIRD, version=2)
    run.store("a", SECOND, version=3)
    assert run.anomalies() == set()


def test_a_delete_of_unknown_outcome_allows_two_states() -> None:
    for stored in (True, False):
        run = RecordedRun()
        run.record_create("a", FIRST)
        run.record(Kind.DELETE, "a", outcome=Outcome.UNKNOWN)
        if stored:
            run.store("a", FIRST)
        assert run.anomalies() == set()


def test_duplicates_from_retried_creates_are_allowed_and_counted() -> None:
    run = RecordedRun()
    run.record(Kind.CREATE, None, FIRST, Outcome.UNKNOWN)
    run.record_create("b", FIRST)
    run.store("a", FIRST)
    run.store("b", FIRST)
    assert run.anomalies() == set()
    assert duplicates_from_retries(run.history, run.stored) == 1
    run.store("c", FIRST)
    assert run.anomalies() == {Anomaly.DUPLICATE}


def test_repeated_violations_count_once() -> None:
    run = RecordedRun()
    run.record_create("a", FIRST)
    assert len(check(run.history, {"ann": []}, [])) == 2
    assert len(distinct(check(run.history, {"ann": []}, []))) == 1
