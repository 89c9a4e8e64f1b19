"""The report of `make chaos`: one table, remarks and totals."""

from collections.abc import Iterable, Sequence

from tests.chaos.checker import Anomaly
from tests.chaos.runner import Result

COLUMNS = (
    "scenario",
    "acknowledged",
    "lost",
    "wrong owner",
    "half-applied",
    "duplicate",
    "unrequested",
    "statuses",
    "no Retry-After",
    "retries",
    "duplicates by retry",
    "slowest (s)",
    "recovery (s)",
    "total (s)",
    "result",
)


def summary_line(result: Result) -> str:
    """A one-line summary of a scenario."""
    if result.skipped:
        return f"{result.name}: not run: {result.skipped}"
    recovery = "never" if result.recovery is None else f"{result.recovery:.1f} s"
    text = f"{result.name}: {result.acknowledged} acknowledged, recovered after {recovery}"
    return f"{text}: {'FAILED' if result.failed else 'ok'}"


def report(results: Sequence[Result], seed: str) -> str:
    ran = [result for result in results if not result.skipped]
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, results)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([table, "", *_remarks(results), "", _totals(ran), f"SEED={seed}"])


def _row(result: Result) -> tuple[str, ...]:
    if result.skipped:
        return (result.name, *("–",) * (len(COLUMNS) - 2), "not run")
    return (
        result.name,
        str(result.acknowledged),
        *(str(result.anomalies[anomaly]) for anomaly in Anomaly),
        ", ".join(f"{status}: {count}" for status, count in sorted(result.statuses.items())),
        str(result.without_retry_after),
        str(result.retries),
        str(result.duplicates),
        f"{result.slowest:.1f}",
        "never" if result.recovery is None else f"{result.recovery:.1f}",
        f"{result.seconds:.1f}",
        "**failed**" if result.failed else "ok",
    )


def _remarks(results: Iterable[Result]) -> Iterable[str]:
    for result in results:
        if result.skipped:
            yield f"- {result.name} was not run: {result.skipped}"
        yield from (f"- {result.name}: {note}" for note in result.notes)
        yield from (f"- {result.name}: **{problem}**" for problem in result.problems[:10])
        if len(result.problems) > 10:
            yield f"- {result.name}: and {len(result.problems) - 10} more"


def _totals(ran: Sequence[Result]) -> str:
    def total(anomaly: Anomaly) -> int:
        return sum(result.anomalies[anomaly] for result in ran)

    return (
        f"{len(ran)} scenarios, {sum(result.acknowledged for result in ran)} acknowledged writes:"
        f" {total(Anomaly.LOST)} lost, {total(Anomaly.WRONG_OWNER)} with the wrong owner,"
        f" {total(Anomaly.HALF_APPLIED)} half-applied,"
        f" {sum(result.recovery is None for result in ran)} scenarios not recovered,"
        f" {sum(result.failed for result in ran)} failed."
        f" {sum(result.retries for result in ran)} retries after an unknown outcome made"
        f" {sum(result.duplicates for result in ran)} tasks twice."
    )
