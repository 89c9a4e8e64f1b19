"""Whether the service slows down as its table grows, or as one user's tasks do.

One service and one database for each size, asked in turn, so that what else the
machine does hits all of them alike.
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
from bench.client import CHANGE, NEW, TASKS, Answer, Client
from bench.contestants import running
from bench.report import Figure, at_most, exactly, table
from tools import postgres

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
OWN = (10, 100, 1_000, 10_000, 100_000)
"""So many tasks have the users who are compared, in the largest table."""

PAGE = 10
"""Tasks on a page: so many has every user."""

DEEP = 500
"""The number of a page far down the list."""

LIMIT = 1.25
"""What the p50 may be of that of the smallest."""

MORE_PAGES = 10
"""Pages that a statement may touch in the largest table beyond those in the smallest.

A B-tree with a thousand times the entries is up to two levels deeper, and a
statement descends up to three times: to the row, and to a place in each index.
"""

TURNS = 30
TURN = 10
"""Requests of one subject before the next one's turn: most find the processor's caches theirs."""

WARM_UP = 20
ORDINARY_USERS = 1_000
STEADY, WITNESS = "steady", "witness"
"""Alike; the plans are the witness's, whose list nobody has lengthened."""

STEADY_TASKS = 100
HEAVY = "heavy"
HEAVY_TASKS = PAGE * DEEP
HEAVY_STRETCH = 2 * HEAVY_TASKS
FINISHER = "finisher"
FINISHED_SHARE = 0.99
FIRST, DEEP_PAGE, OPEN = "list, first page", f"list, page {DEEP}", "list, completed=false"
COMPARED = ("get one", FIRST, DEEP_PAGE, "patch", "create")
"""In the order in which they are measured: what reads comes before what changes."""

Request = Callable[[], Answer]


class Subject:
    """One of those that are compared: what it asks, and how long that took."""

    def __init__(self, tasks: int, requests: dict[str, Request]) -> None:
        self.tasks = tasks
        self.requests = requests
        self.times: dict[str, list[float]] = defaultdict(list)

    def p50(self, operation: str) -> float:
        return statistics.median(self.times[operation])


class Tables:
    """A server with a database for each size, and what it takes to ask a service before one."""

    def __init__(self, server: URL, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._secret = secrets.token_hex(32)

    def of(self, size: int) -> URL:
        return self._server.set(database=f"tasks_{size}")

    def make(self, size: int, owner: data.Owner) -> None:
        data.ask(self._server, f"CREATE DATABASE {self.of(size).database}")
        with ExitStack() as stack:
            self.serve(stack, size)
        began = time.monotonic()
        data.load_tasks(self.of(size), size, owner)
        _progress(f"loaded {size:,} tasks in {time.monotonic() - began:.0f} s")

    def serve(self, stack: ExitStack, size: int) -> str:
        service = running("service", self.of(size), self._secret, self._folder, workers=1)
        return stack.enter_context(service).url

    def requests(self, size: int, url: str, user: str, pager: str | None) -> dict[str, Request]:
        """All operations as this user, the reading ones first; the deep page is that of `pager`."""
        client = Client(url, data.lasting_token(self._secret, user))
        some = "SELECT id FROM tasks WHERE user_id = %s ORDER BY random() LIMIT 200"
        paths = cycle([f"{TASKS}/{task}" for (task,) in data.ask(self.of(size), some, user)])
        requests: dict[str, Request] = {
            "get one": lambda: client.ask("GET", next(paths)),
            FIRST: lambda: client.ask("GET", f"{TASKS}?limit={PAGE}"),
            OPEN: lambda: client.ask("GET", f"{TASKS}?limit={PAGE}&completed=false"),
        }
        if pager is not None:
            turner = Client(url, data.lasting_token(self._secret, pager))
            deep = turner.page(DEEP, PAGE)
            requests[DEEP_PAGE] = lambda: turner.ask("GET", deep)
        return requests | {
            "patch": lambda: client.ask("PATCH", next(paths), CHANGE),
            "replace": lambda: client.ask("PUT", next(paths), NEW),
            "create": lambda: client.ask("POST", TASKS, NEW),
            "delete": lambda: client.ask("DELETE", next(paths)),
        }


def section(figures: list[Figure], sizes: Sequence[int] = SIZES) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tables = Tables(stack.enter_context(postgres.temporary_server()), folder)
        for size in sizes:
            tables.make(size, _owner(size, largest=size == sizes[-1]))
        bytes_lines = list(_bytes_lines(tables, sizes))
        grown, own, finisher = _compare(tables, sizes)
        seen = {size: _plans(tables, size) for size in sizes}
        finishing = _finisher_plan(tables, sizes[-1])
    figures += _growth_figures("table from", grown)
    figures += _growth_figures("one user from", own)
    figures.append(_finisher_figure(own[0], finisher))
    figures += _plan_figures(seen, finishing)
    yield from _growth_lines(grown, own, finisher)
    yield from bytes_lines
    yield from _plan_lines(seen, finishing)


def _owner(size: int, *, largest: bool) -> data.Owner:
    """Whose is which task: tasks of a few users evenly among those of the ordinary ones.

    The steady user's lie as far apart as they can, each on a page of its own at
    every size. Those of the heavy one fill every second place of a stretch that
    is the same at every size, so that only the table grows.
    """
    special: dict[int, tuple[str, float]] = {}

    def place(user: str, count: int, first: int, rows: int, share: float = data.COMPLETED_SHARE) -> None:
        for turn in range(count):
            row = first + turn * rows // count
            while row in special:
                row += 1
            special[row] = user, share

    for user in (STEADY, WITNESS):
        place(user, STEADY_TASKS, 0, size)
    place(HEAVY, HEAVY_TASKS, (size - HEAVY_STRETCH) // 2, HEAVY_STRETCH)
    if largest:
        for count in OWN:
            place(_own(count), count, 0, size)
        place(FINISHER, OWN[-1], 0, size, FINISHED_SHARE)
    ordinary = data.in_turn(ORDINARY_USERS)
    return lambda number: special.get(number) or ordinary(number)


def _own(count: int) -> str:
    return f"own-{count}"


def _compare(tables: Tables, sizes: Sequence[int]) -> tuple[list[Subject], list[Subject], Subject]:
    """The tables in turn; then the users of the largest table in turn, and the finisher."""
    with ExitStack() as stack:
        urls = {size: tables.serve(stack, size) for size in sizes}
        grown = [Subject(size, tables.requests(size, url, STEADY, HEAVY)) for size, url in urls.items()]
        largest = sizes[-1]

        def subject(user: str, count: int) -> Subject:
            pager = user if count >= HEAVY_TASKS else None
            return Subject(count, tables.requests(largest, urls[largest], user, pager))

        own = [subject(_own(count), count) for count in OWN]
        finisher = subject(FINISHER, OWN[-1])
        _measure([*own, finisher], OPEN)
        for operation in COMPARED:
            _measure(grown, operation)
            _measure(own, operation)
    return grown, own, finisher


def _measure(subjects: Sequence[Subject], operation: str) -> None:
    able = [subject for subject in subjects if operation in subject.requests]
    for subject in able:
        for _ in range(WARM_UP):
            subject.requests[operation]()
    for _ in range(TURNS):
        for subject in able:
            answers = [subject.requests[operation]() for _ in range(TURN)]
            subject.times[operation] += [answer.milliseconds for answer in answers]
    _progress(f"measured {operation}")


def _plans(tables: Tables, size: int) -> dict[str, plans.Plan]:
    """Of each operation, after some others of its kind."""
    url = tables.of(size)
    plans.log_plans(url)
    with ExitStack() as stack:
        requests = tables.requests(size, tables.serve(stack, size), WITNESS, HEAVY)
        found = {}
        for operation, request in requests.items():
            for _ in range(WARM_UP):
                request()
            found[operation] = plans.capture(url, request)
        _progress(f"explained {size:,} tasks")
        return found


def _finisher_plan(tables: Tables, size: int) -> plans.Plan:
    with ExitStack() as stack:
        requests = tables.requests(size, tables.serve(stack, size), FINISHER, None)
        requests[OPEN]()
        return plans.capture(tables.of(size), requests[OPEN])


def _growth_figures(what: str, subjects: Sequence[Subject]) -> Iterator[Figure]:
    for operation in COMPARED:
        able = [subject for subject in subjects if operation in subject.times]
        worst = max(able, key=lambda subject: subject.p50(operation))
        ratio = worst.p50(operation) / able[0].p50(operation)
        reach = f"{what} {able[0].tasks:,} to {able[-1].tasks:,} tasks"
        yield at_most(f"{operation}, {reach}, p50", LIMIT, ratio, " ×", note=f" (at {worst.tasks:,})")


def _finisher_figure(smallest: Subject, finisher: Subject) -> Figure:
    tasks = f"{finisher.tasks:,} tasks {FINISHED_SHARE:.0%} completed"
    what = f"{OPEN}, of {tasks}, p50 by that of {smallest.tasks}"
    return at_most(what, LIMIT, finisher.p50(OPEN) / smallest.p50(OPEN), " ×")


Plans = dict[int, dict[str, plans.Plan]]
"""By the size of the table and the operation."""


def _plan_figures(seen: Plans, finishing: plans.Plan) -> Iterator[Figure]:
    every = [plan for of_size in seen.values() for plan in of_size.values()] + [finishing]
    yield exactly("sequential scans in any plan", 0, (plan.has("Seq Scan") for plan in every))
    lists = [of_size[operation] for of_size in seen.values() for operation in (FIRST, DEEP_PAGE)]
    yield exactly("sorts in the plan of the default list", 0, (plan.has("Sort") for plan in lists))
    smallest, *_, largest = seen.values()
    more = {name: largest[name].buffers() - smallest[name].buffers() for name in largest}
    worst = max(more, key=lambda name: more[name])
    what = "more pages touched in the largest table than in the smallest"
    yield at_most(what, MORE_PAGES, more[worst], note=f" ({worst}, the worst)")


def _growth_lines(grown: Sequence[Subject], own: Sequence[Subject], finisher: Subject) -> Iterator[str]:
    yield "## Growth"
    yield ""
    yield (
        f"p50 in ms of {TURNS * TURN} requests of one caller, {TURN} at a time from each size in turn, and"
        f" how many times that of the smallest. Pages have {PAGE} tasks. In a table of any size the caller"
        f" has {STEADY_TASKS} tasks, which lie far apart, and page {DEEP} is that of a user with"
        f" {HEAVY_TASKS:,}."
    )
    yield ""
    yield from _times(grown, "tasks in the table")
    yield f"The same in the largest table, by what the caller has; page {DEEP} where it exists."
    yield ""
    yield from _times(own, "tasks of the user")
    yield (
        f"`completed=false` of {finisher.tasks:,} tasks of which {FINISHED_SHARE:.0%} are completed:"
        f" {finisher.p50(OPEN):.2f} ms; of {own[0].tasks}, {own[0].p50(OPEN):.2f} ms."
    )
    yield ""


def _times(subjects: Sequence[Subject], what: str) -> Iterator[str]:
    rows = [[operation, *_ratios(operation, subjects)] for operation in COMPARED]
    yield from table([what, *(f"{subject.tasks:,}" for subject in subjects)], rows)


def _ratios(operation: str, subjects: Sequence[Subject]) -> Iterator[str]:
    smallest: float | None = None
    for subject in subjects:
        if operation not in subject.times:
            yield "–"
            continue
        p50 = subject.p50(operation)
        smallest = smallest or p50
        yield f"{p50:.2f} ({p50 / smallest:.2f} ×)"


def _bytes_lines(tables: Tables, sizes: Sequence[int]) -> Iterator[str]:
    """As loaded: nothing has been changed yet."""
    rows = [[f"{size:,}", *_bytes(tables.of(size), size)] for size in sizes]
    yield "Bytes on disk for each task, right after loading:"
    yield ""
    yield from table(["tasks in the table", "table", "all indexes", "each index"], rows)


def _bytes(url: URL, size: int) -> Iterator[str]:
    [(heap, indexes)] = data.ask(url, "SELECT pg_table_size('tasks'), pg_indexes_size('tasks')")
    yield from (f"{int(total) / size:.0f}" for total in (heap, indexes))
    found = data.ask(
        url,
        "SELECT indexrelid::regclass, pg_relation_size(indexrelid) FROM pg_index"
        " WHERE indrelid = 'tasks'::regclass ORDER BY indexrelid",
    )
    yield ", ".join(f"`{name}` {int(total) / size:.0f}" for name, total in found)


def _plan_lines(seen: Plans, finishing: plans.Plan) -> Iterator[str]:
    yield "Plans of the statements as the service sent them, and the pages (8 KiB) they touch at each size:"
    yield ""
    *_, largest = seen.values()
    names = ["operation", "plan in the largest table", "Seq Scan", "Sort"]
    rows = [_plan_row(name, plan, [each[name] for each in seen.values()]) for name, plan in largest.items()]
    yield from table([*names, *(f"{size:,}" for size in seen)], rows)
    shown = {**largest, f"{OPEN}, {FINISHED_SHARE:.0%} completed": finishing}
    yield f"<details><summary>EXPLAIN (ANALYZE, BUFFERS) of each, {list(seen)[-1]:,} tasks</summary>"
    yield ""
    for name, plan in shown.items():
        yield from (f"{name}:", "", "```", plan.text, "```", "")
    yield "</details>"
    yield ""


def _plan_row(name: str, largest: plans.Plan, of_sizes: Sequence[plans.Plan]) -> list[str]:
    found = ["yes" if any(plan.has(node) for plan in of_sizes) else "no" for node in ("Seq Scan", "Sort")]
    return [name, " → ".join(largest.nodes()), *found, *(str(plan.buffers()) for plan in of_sizes)]


def _progress(what: str) -> None:
    print(f"growth: {what}", file=sys.stderr, flush=True)
