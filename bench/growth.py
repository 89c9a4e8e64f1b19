"""Latency as the table grows, and as the number of one user's tasks grows.

Each table size has its own database and service instance. Requests alternate between
them, so that background load on the machine affects all sizes equally. `buffers` counts
what the same requests touch.
"""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

from bench import data
from bench.client import CHANGE, NEW, TASKS, Response
from bench.databases import Databases, Placement, progress
from bench.report import Figure, at_most, table
from tools import postgres

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
USER_SIZES = (10, 100, 1_000, 10_000, 20_000)
"""Numbers of tasks of the users that are compared in the largest table."""

PAGE = 10
"""Tasks per page; every user has at least one full page."""

DEEP = 500
"""Number of the page that measures deep pagination."""

LIMIT = 1.25
"""Maximum p50 relative to the smallest size."""

TURNS = 30
TURN = 10
"""Consecutive requests to one size before switching, so that most run with warm CPU caches."""

WARM_UP = 20
ORDINARY_USERS = 1_000
STEADY = "steady"
STEADY_TASKS = 100
HEAVY = "heavy"
HEAVY_TASKS = PAGE * DEEP
HEAVY_RANGE = 2 * HEAVY_TASKS
"""Number of consecutive rows among which the heavy user's tasks lie."""

FINISHER = "finisher"
FINISHED_SHARE = 0.99
FIRST, DEEP_PAGE, OPEN = "list, first page", f"list, page {DEEP}", "list, completed=false"
COMPARED = ("get one", FIRST, DEEP_PAGE, "patch", "create")
"""In order of measurement: reads before writes."""

Request = Callable[[], Response]


class Series:
    """The requests at one size, and their latencies in milliseconds by operation."""

    def __init__(self, tasks: int, requests: dict[str, Request]) -> None:
        self.tasks = tasks
        self.requests = requests
        self.times: dict[str, list[float]] = defaultdict(list)

    def p50(self, operation: str) -> float:
        return statistics.median(self.times[operation])


def section(figures: list[Figure], sizes: Sequence[int] = SIZES) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = Databases(stack.enter_context(postgres.temporary_server()), folder)
        for size in sizes:
            databases.create(size, _placement(size, largest=size == sizes[-1]))
        tables, users, finisher = _compare(databases, sizes)
    figures += _growth_figures("table", tables)
    figures += _growth_figures("user", users)
    figures.append(_finisher_figure(users[0], finisher))
    yield from _growth_lines(tables, users, finisher)


def _placement(size: int, *, largest: bool) -> Placement:
    """Distribute the special users' tasks among those of the ordinary users.

    The tasks of the steady user are spread evenly over the table, so that at every size each is
    on its own page. The heavy user has every second row of a range that has the same length at
    every size, so that only the rest of the table grows.
    """
    placement = Placement(ORDINARY_USERS)
    placement.spread(data.Owner(STEADY), STEADY_TASKS, 0, size)
    placement.spread(data.Owner(HEAVY), HEAVY_TASKS, (size - HEAVY_RANGE) // 2, HEAVY_RANGE)
    if largest:
        for count in USER_SIZES:
            placement.spread(data.Owner(_user_with(count)), count, 0, size)
        placement.spread(data.Owner(FINISHER, FINISHED_SHARE), USER_SIZES[-1], 0, size)
    return placement


def _user_with(count: int) -> str:
    return f"own-{count}"


def _requests(databases: Databases, size: int, url: str, user: str, pager: str | None) -> dict[str, Request]:
    """All operations for `user`, reads first. The deep page belongs to `pager`, if given."""
    client, paths = databases.client(url, user), cycle(databases.task_paths(size, user))
    requests: dict[str, Request] = {
        "get one": lambda: client.request("GET", next(paths)),
        FIRST: lambda: client.request("GET", f"{TASKS}?limit={PAGE}"),
        OPEN: lambda: client.request("GET", f"{TASKS}?limit={PAGE}&completed=false"),
    }
    if pager is not None:
        pager_client = databases.client(url, pager)
        deep = pager_client.page("sort=-created", (DEEP - 1) * PAGE, PAGE)
        requests[DEEP_PAGE] = lambda: pager_client.request("GET", deep)
    return requests | {
        "patch": lambda: client.request("PATCH", next(paths), CHANGE),
        "create": lambda: client.request("POST", TASKS, NEW),
    }


def _compare(databases: Databases, sizes: Sequence[int]) -> tuple[list[Series], list[Series], Series]:
    """Series by table size, series by user size in the largest table, and that of the finisher."""
    with ExitStack() as stack:
        urls = {size: databases.serve(stack, size) for size in sizes}
        tables = [Series(size, _requests(databases, size, url, STEADY, HEAVY)) for size, url in urls.items()]
        largest = sizes[-1]

        def series(user: str, count: int) -> Series:
            pager = user if count >= HEAVY_TASKS else None
            return Series(count, _requests(databases, largest, urls[largest], user, pager))

        users = [series(_user_with(count), count) for count in USER_SIZES]
        finisher = series(FINISHER, USER_SIZES[-1])
        _measure([*users, finisher], OPEN)
        for operation in COMPARED:
            _measure(tables, operation)
            _measure(users, operation)
    return tables, users, finisher


def _measure(all_series: Sequence[Series], operation: str) -> None:
    measured = [series for series in all_series if operation in series.requests]
    for series in measured:
        for _ in range(WARM_UP):
            series.requests[operation]()
    for _ in range(TURNS):
        for series in measured:
            responses = [series.requests[operation]() for _ in range(TURN)]
            series.times[operation] += [response.milliseconds for response in responses]
    progress(f"measured {operation}")


def _growth_figures(kind: str, all_series: Sequence[Series]) -> Iterator[Figure]:
    for operation in COMPARED:
        measured = [series for series in all_series if operation in series.times]
        worst = max(measured, key=lambda series: series.p50(operation))
        ratio = worst.p50(operation) / measured[0].p50(operation)
        name = f"{operation}, p50 growth, {kind} with {measured[0].tasks:,} to {measured[-1].tasks:,} tasks"
        yield at_most(name, LIMIT, ratio, " ×", note=f" (at {worst.tasks:,})")


def _finisher_figure(smallest: Series, finisher: Series) -> Figure:
    tasks = f"{finisher.tasks:,} tasks ({FINISHED_SHARE:.0%} completed)"
    name = f"{OPEN}, p50 with {tasks} relative to {smallest.tasks} tasks"
    return at_most(name, LIMIT, finisher.p50(OPEN) / smallest.p50(OPEN), " ×")


def _growth_lines(tables: Sequence[Series], users: Sequence[Series], finisher: Series) -> Iterator[str]:
    yield "## Growth"
    yield ""
    yield (
        f"p50 in ms of {TURNS * TURN} requests by one client, {TURN} at a time to each size in turn, and the"
        f" ratio to the smallest size. Pages have {PAGE} tasks. In every table the user has {STEADY_TASKS}"
        f" tasks, spread evenly over the table; page {DEEP} belongs to a user with {HEAVY_TASKS:,} tasks."
    )
    yield ""
    yield from _times(tables, "tasks in the table")
    yield f"The same in the largest table, by number of tasks the user has; page {DEEP} where it exists."
    yield ""
    yield from _times(users, "tasks of the user")
    yield (
        f"`completed=false` for a user with {finisher.tasks:,} tasks, {FINISHED_SHARE:.0%} of them completed:"
        f" {finisher.p50(OPEN):.2f} ms; for a user with {users[0].tasks} tasks: {users[0].p50(OPEN):.2f} ms."
    )
    yield ""


def _times(all_series: Sequence[Series], heading: str) -> Iterator[str]:
    rows = [[operation, *_ratios(operation, all_series)] for operation in COMPARED]
    yield from table([heading, *(f"{series.tasks:,}" for series in all_series)], rows)


def _ratios(operation: str, all_series: Sequence[Series]) -> Iterator[str]:
    smallest: float | None = None
    for series in all_series:
        if operation not in series.times:
            yield "–"
            continue
        p50 = series.p50(operation)
        smallest = smallest or p50
        yield f"{p50:.2f} ({p50 / smallest:.2f} ×)"
