"""Latency and query plans as the table grows, and as the number of one user's tasks grows.

Each table size has its own database and service instance. Requests alternate between
them, so that background load on the machine affects all sizes equally.
"""

import secrets
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

from sqlalchemy import URL

from bench import data, plans
from bench.client import CHANGE, NEW, TASKS, Client, Response
from bench.report import Figure, at_most, exactly, table
from bench.targets import running
from tools import postgres

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
USER_SIZES = (10, 100, 1_000, 10_000, 100_000)
"""Numbers of tasks of the users that are compared in the largest table."""

PAGE = 10
"""Tasks per page; every user has at least one full page."""

DEEP = 500
"""Number of the page that measures deep pagination."""

LIMIT = 1.25
"""Maximum p50 relative to the smallest size."""

MORE_PAGES = 10
"""Additional pages that a statement may touch in the largest table compared with the smallest.

A B-tree with 1,000 times as many entries is up to two levels deeper, and a statement
descends up to three times: once to find the row, and once to insert into each index.
"""

TURNS = 30
TURN = 10
"""Consecutive requests to one size before switching, so that most run with warm CPU caches."""

WARM_UP = 20
ORDINARY_USERS = 1_000
STEADY, WITNESS = "steady", "witness"
"""Two users with the same data. Timed requests add tasks to the first; plans are taken from the second."""

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


class Databases:
    """A server with one database per table size, and the services and clients for them."""

    def __init__(self, server: URL, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._secret = secrets.token_hex(32)

    def url(self, size: int) -> URL:
        return self._server.set(database=f"tasks_{size}")

    def create(self, size: int, owner: data.Owner) -> None:
        data.execute(self._server, f"CREATE DATABASE {self.url(size).database}")
        with ExitStack() as stack:
            self.serve(stack, size)
        began = time.monotonic()
        data.load_tasks(self.url(size), size, owner)
        _progress(f"loaded {size:,} tasks in {time.monotonic() - began:.0f} s")

    def serve(self, stack: ExitStack, size: int) -> str:
        service = running("service", self.url(size), self._secret, self._folder, workers=1)
        return stack.enter_context(service).url

    def requests(self, size: int, url: str, user: str, pager: str | None) -> dict[str, Request]:
        """All operations for `user`, reads first. The deep page belongs to `pager`, if given."""
        client = Client(url, data.long_lived_token(self._secret, user))
        sample = "SELECT id FROM tasks WHERE user_id = %s ORDER BY random() LIMIT 200"
        paths = cycle([f"{TASKS}/{task}" for (task,) in data.execute(self.url(size), sample, user)])
        requests: dict[str, Request] = {
            "get one": lambda: client.request("GET", next(paths)),
            FIRST: lambda: client.request("GET", f"{TASKS}?limit={PAGE}"),
            OPEN: lambda: client.request("GET", f"{TASKS}?limit={PAGE}&completed=false"),
        }
        if pager is not None:
            pager_client = Client(url, data.long_lived_token(self._secret, pager))
            deep = pager_client.page(DEEP, PAGE)
            requests[DEEP_PAGE] = lambda: pager_client.request("GET", deep)
        return requests | {
            "patch": lambda: client.request("PATCH", next(paths), CHANGE),
            "replace": lambda: client.request("PUT", next(paths), NEW),
            "create": lambda: client.request("POST", TASKS, NEW),
            "delete": lambda: client.request("DELETE", next(paths)),
        }


def section(figures: list[Figure], sizes: Sequence[int] = SIZES) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = Databases(stack.enter_context(postgres.temporary_server()), folder)
        for size in sizes:
            databases.create(size, _owner(size, largest=size == sizes[-1]))
        bytes_lines = list(_bytes_lines(databases, sizes))
        tables, users, finisher = _compare(databases, sizes)
        plans_by_size = {size: _plans(databases, size) for size in sizes}
        finisher_plan = _finisher_plan(databases, sizes[-1])
    figures += _growth_figures("table", tables)
    figures += _growth_figures("user", users)
    figures.append(_finisher_figure(users[0], finisher))
    figures += _plan_figures(plans_by_size, finisher_plan)
    yield from _growth_lines(tables, users, finisher)
    yield from bytes_lines
    yield from _plan_lines(plans_by_size, finisher_plan)


def _owner(size: int, *, largest: bool) -> data.Owner:
    """Distribute the special users' tasks among those of the ordinary users.

    The tasks of the steady user and the witness are spread evenly over the table, so that at
    every size each is on its own page. The heavy user has every second row of a range that
    has the same length at every size, so that only the rest of the table grows.
    """
    special: dict[int, tuple[str, float]] = {}

    def place(user: str, count: int, first: int, rows: int, share: float = data.COMPLETED_SHARE) -> None:
        for index in range(count):
            row = first + index * rows // count
            while row in special:
                row += 1
            special[row] = user, share

    for user in (STEADY, WITNESS):
        place(user, STEADY_TASKS, 0, size)
    place(HEAVY, HEAVY_TASKS, (size - HEAVY_RANGE) // 2, HEAVY_RANGE)
    if largest:
        for count in USER_SIZES:
            place(_user_with(count), count, 0, size)
        place(FINISHER, USER_SIZES[-1], 0, size, FINISHED_SHARE)
    ordinary = data.round_robin(ORDINARY_USERS)
    return lambda number: special.get(number) or ordinary(number)


def _user_with(count: int) -> str:
    return f"own-{count}"


def _compare(databases: Databases, sizes: Sequence[int]) -> tuple[list[Series], list[Series], Series]:
    """Series by table size, series by user size in the largest table, and that of the finisher."""
    with ExitStack() as stack:
        urls = {size: databases.serve(stack, size) for size in sizes}
        tables = [Series(size, databases.requests(size, url, STEADY, HEAVY)) for size, url in urls.items()]
        largest = sizes[-1]

        def series(user: str, count: int) -> Series:
            pager = user if count >= HEAVY_TASKS else None
            return Series(count, databases.requests(largest, urls[largest], user, pager))

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
    _progress(f"measured {operation}")


def _plans(databases: Databases, size: int) -> dict[str, plans.Plan]:
    """The plan of each operation, after warm-up requests of the same operation."""
    url = databases.url(size)
    plans.log_plans(url)
    with ExitStack() as stack:
        requests = databases.requests(size, databases.serve(stack, size), WITNESS, HEAVY)
        found = {}
        for operation, request in requests.items():
            for _ in range(WARM_UP):
                request()
            found[operation] = plans.capture(url, request)
        _progress(f"captured plans at {size:,} tasks")
        return found


def _finisher_plan(databases: Databases, size: int) -> plans.Plan:
    with ExitStack() as stack:
        requests = databases.requests(size, databases.serve(stack, size), FINISHER, None)
        requests[OPEN]()
        return plans.capture(databases.url(size), requests[OPEN])


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


Plans = dict[int, dict[str, plans.Plan]]
"""Plans by table size and operation."""


def _plan_figures(plans_by_size: Plans, finisher_plan: plans.Plan) -> Iterator[Figure]:
    all_plans = [plan for of_size in plans_by_size.values() for plan in of_size.values()] + [finisher_plan]
    yield exactly("sequential scans in any plan", 0, (plan.has("Seq Scan") for plan in all_plans))
    lists = [of_size[operation] for of_size in plans_by_size.values() for operation in (FIRST, DEEP_PAGE)]
    yield exactly("sorts in the plan of the default list", 0, (plan.has("Sort") for plan in lists))
    smallest, *_, largest = plans_by_size.values()
    more = {operation: largest[operation].buffers() - smallest[operation].buffers() for operation in largest}
    worst = max(more, key=lambda operation: more[operation])
    name = "additional pages touched in the largest table compared with the smallest"
    yield at_most(name, MORE_PAGES, more[worst], note=f" (worst: {worst})")


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


def _bytes_lines(databases: Databases, sizes: Sequence[int]) -> Iterator[str]:
    """Must run directly after loading, before any update."""
    rows = [[f"{size:,}", *_bytes(databases.url(size), size)] for size in sizes]
    yield "Bytes on disk per task, directly after loading:"
    yield ""
    yield from table(["tasks in the table", "table", "all indexes", "each index"], rows)


def _bytes(url: URL, size: int) -> Iterator[str]:
    [(heap, indexes)] = data.execute(url, "SELECT pg_table_size('tasks'), pg_indexes_size('tasks')")
    yield from (f"{int(total) / size:.0f}" for total in (heap, indexes))
    found = data.execute(
        url,
        "SELECT indexrelid::regclass, pg_relation_size(indexrelid) FROM pg_index"
        " WHERE indrelid = 'tasks'::regclass ORDER BY indexrelid",
    )
    yield ", ".join(f"`{name}` {int(total) / size:.0f}" for name, total in found)


def _plan_lines(plans_by_size: Plans, finisher_plan: plans.Plan) -> Iterator[str]:
    yield "Plans of the statements that the service sends, and pages (8 KiB) touched at each table size:"
    yield ""
    *_, largest = plans_by_size.values()
    names = ["operation", "plan in the largest table", "Seq Scan", "Sort"]
    rows = [
        _plan_row(operation, plan, [of_size[operation] for of_size in plans_by_size.values()])
        for operation, plan in largest.items()
    ]
    yield from table([*names, *(f"{size:,}" for size in plans_by_size)], rows)
    shown = {**largest, f"{OPEN}, {FINISHED_SHARE:.0%} completed": finisher_plan}
    size = list(plans_by_size)[-1]
    yield f"<details><summary>EXPLAIN (ANALYZE, BUFFERS) of each operation, {size:,} tasks</summary>"
    yield ""
    for name, plan in shown.items():
        yield from (f"{name}:", "", "```", plan.text, "```", "")
    yield "</details>"
    yield ""


def _plan_row(operation: str, largest: plans.Plan, of_sizes: Sequence[plans.Plan]) -> list[str]:
    found = ["yes" if any(plan.has(node) for plan in of_sizes) else "no" for node in ("Seq Scan", "Sort")]
    return [operation, " → ".join(largest.nodes()), *found, *(str(plan.buffers()) for plan in of_sizes)]


def _progress(message: str) -> None:
    print(f"growth: {message}", file=sys.stderr, flush=True)
