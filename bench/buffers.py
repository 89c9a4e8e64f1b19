"""Pages that each operation touches, as the table grows, and as the number of one user's tasks grows.

PostgreSQL counts them for each statement that the service sends (see `plans`). Other load on the
machine changes no count, so unlike latencies they show exactly what depends on the amount of data.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL

from bench import data, plans
from bench.client import CHANGE, NEW, TASKS, Client, Response
from bench.databases import Databases, Placement, progress
from bench.report import Figure, at_most, exactly, table
from tools import postgres

SIZES = (10_000, 100_000, 1_000_000)
USER_SIZES = (10, 100, 1_000, 10_000, 20_000)
"""Numbers of tasks of the users that are compared in the largest table. The last is the default quota."""

TASKS_PER_USER = 10
"""Of the ordinary users, so that the number of users grows with the table."""

PAGE = 10
"""Tasks per page. The service reads one more, to know whether there is a next page."""

MORE_PAGES = 5
"""Additional pages that a list may touch at the largest size compared with the smallest.

A B-tree with 100 times as many entries is about one level deeper. A list descends once to find the
feed and once or twice to find tasks, and can begin at the end of an index page.
"""

MORE_PAGES_OF_WRITES = 15
"""The same for the other operations.

A create under a key descends twelve times: into seven indexes of tasks and two of keys, and to find
the feed, the key and the ID. Where a row version goes can cost a write a few more pages.
"""

PAGES_PER_TASK = 1.25
"""Maximum if no task matches a filter: each row is on a separate page, and the index has its pages."""

REPEATS = 5
"""Requests per operation, of which the median counts: a write can happen to split a page."""

HEAVY, HEAVY_TASKS = "heavy", 5_000
TRASH, TRASH_TASKS = "trash", 1_000
RANGE = 10_000
"""Number of consecutive rows among which the tasks of these two users lie."""

SORTS = tuple(f"sort={sign}{key}" for key in ("created", "due", "priority", "updated") for sign in ("-", ""))
FILTERS = ("completed=false", "priority=high,medium", "deleted=true")
"""Filters that most of the user's tasks match, in the default order."""

DUE_FILTERS = (
    f"sort=due&{data.DUE_WEEK}",
    f"sort=due&{data.DUE_WEEK}&completed=false&priority=high",
    data.DUE_WEEK,
)
"""Filters for one of about 60 weeks."""

UNMATCHED = (
    "tag=absent",
    "any_tag=absent",
    "q=absent",
    "due_from=2100-01-01T00:00:00Z",
    "updated_from=2100-01-01T00:00:00Z",
    "sort=due&created_from=2100-01-01T00:00:00Z",
    "sort=due&tag=absent",
)
"""Filters that no task matches and that are no condition of the index that the order follows."""

FIRST, MIDDLE, BORDER = "first", "middle", "where the dates end"
ANY_PAGE = ""

Key = tuple[str, str]
"""An operation or the parameters of a list, and which page."""

Touched = Mapping[Key, plans.Plan]
Request = Callable[[], Response]


@dataclass(frozen=True)
class Holder:
    """A user with tasks, and another with deleted tasks."""

    user: str
    tasks: int
    trash: str
    deleted: int


LARGE = Holder(HEAVY, HEAVY_TASKS, TRASH, TRASH_TASKS)
HOLDERS = [Holder(f"own-{tasks}", tasks, f"trash-{tasks}", tasks) for tasks in USER_SIZES]


def section(figures: list[Figure], sizes: Sequence[int] = SIZES) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = Databases(stack.enter_context(postgres.temporary_server()), folder)
        for size in sizes:
            databases.create(size, _placement(size, largest=size == sizes[-1]))
            plans.log_plans(databases.url(size))
        bytes_lines = list(_bytes_lines(databases, sizes))
        by_table, by_user = {}, {}
        for size in sizes:
            with databases.serving(size) as url:
                by_table[size] = _touched(databases, size, url, LARGE)
                if size == sizes[-1]:
                    by_user = {each.tasks: _touched(databases, size, url, each) for each in HOLDERS}
    figures += _figures(by_table, by_user)
    yield from _lines(by_table, by_user)
    yield from bytes_lines
    yield from _plan_lines(by_table[sizes[-1]], sizes[-1])


def _placement(size: int, *, largest: bool) -> Placement:
    """Distribute the tasks of the measured users among those of the ordinary users.

    The two users of LARGE have rows in a range that is the same at every size, so that only the rest
    of the table grows. The tasks of the others are spread evenly, each on its own page.
    """
    placement = Placement(users=size // TASKS_PER_USER)
    first = (size - RANGE) // 2
    placement.spread(data.Owner(HEAVY, undated=_undated(HEAVY_TASKS)), HEAVY_TASKS, first, RANGE)
    placement.spread(data.Owner(TRASH, deleted=True), TRASH_TASKS, first, RANGE)
    if largest:
        for each in HOLDERS:
            owner = data.Owner(each.user, undated=_undated(each.tasks))
            placement.spread(owner, each.tasks, 0, size)
            placement.spread(data.Owner(each.trash, deleted=True), each.deleted, 0, size)
    return placement


def _touched(databases: Databases, size: int, url: str, holder: Holder) -> Touched:
    """The plan of each operation, reads before writes."""
    client, trash = databases.client(url, holder.user), databases.client(url, holder.trash)
    prepared: dict[Key, Callable[[], Request]] = {}
    for query in (*SORTS, *FILTERS, *DUE_FILTERS, *UNMATCHED):
        owner, tasks = (trash, holder.deleted) if query == "deleted=true" else (client, holder.tasks)
        for page, behind in _pages(query, tasks).items():
            prepared[query, page] = _list(owner, query, behind)
    for name, prepare in _operations(client, databases.task_paths(size, holder.user)).items():
        prepared[name, ANY_PAGE] = prepare
    found = {key: _median(databases.url(size), prepare) for key, prepare in prepared.items()}
    progress(f"counted pages for {holder.user} at {size:,} tasks")
    return found


def _pages(query: str, tasks: int) -> dict[str, int]:
    """The pages to measure, each with the number of tasks before it."""
    pages = {FIRST: 0}
    if query in {*SORTS, *FILTERS} and tasks // 2 >= PAGE:
        pages[MIDDLE] = tasks // 2
    if query in {"sort=due", "sort=-due"}:
        pages[BORDER] = tasks - _undated(tasks) - PAGE // 2
    return pages


def _undated(tasks: int) -> int:
    return tasks // 4


def _list(client: Client, query: str, behind: int) -> Callable[[], Request]:
    path = client.page(query, behind, PAGE)
    return lambda: lambda: client.request("GET", path)


def _operations(client: Client, paths: Sequence[str]) -> dict[str, Callable[[], Request]]:
    """For each operation a function that prepares a request, so that only the request is counted."""
    existing, numbers = cycle(paths), count()

    def new() -> str:
        return f"{TASKS}/{client.request('POST', TASKS, NEW).task_id()}"

    def request(method: str, path: str, body: object = None, **headers: str) -> Request:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return lambda: client.request(method, path, body, named)

    def unchanged_list() -> Request:
        path = f"{TASKS}?limit={PAGE}"
        return request("GET", path, If_None_Match=client.request("GET", path).etag or "")

    def conditional_patch() -> Request:
        path = next(existing)
        return request("PATCH", path, CHANGE, If_Match=client.request("GET", path).etag or "")

    def create_under_key(*, again: bool) -> Request:
        create = request("POST", TASKS, NEW, Idempotency_Key=f"key-{next(numbers)}")
        if again:
            create()
        return create

    def restore() -> Request:
        path = new()
        client.request("DELETE", path)
        return request("POST", f"{path}/restore")

    return {
        "get one": lambda: request("GET", next(existing)),
        "list, unchanged (304)": unchanged_list,
        "patch": lambda: request("PATCH", next(existing), CHANGE),
        "patch, If-Match": conditional_patch,
        "replace": lambda: request("PUT", next(existing), NEW),
        "create": lambda: request("POST", TASKS, NEW),
        "create, with an ID": lambda: request("POST", TASKS, {**NEW, "id": str(uuid4())}),
        "create, with a key": lambda: create_under_key(again=False),
        "create, with a key, repeated": lambda: create_under_key(again=True),
        "delete": lambda: request("DELETE", new()),
        "restore": restore,
    }


def _median(url: URL, prepare: Callable[[], Request]) -> plans.Plan:
    found = [plans.capture(url, prepare()) for _ in range(REPEATS)]
    return sorted(found, key=plans.Plan.buffers)[REPEATS // 2]


Sizes = Mapping[int, Touched]
"""By the number of tasks of the table or the user."""


def _figures(by_table: Sizes, by_user: Sizes) -> Iterator[Figure]:
    everything = [touched for sizes in (by_table, by_user) for touched in sizes.values()]
    scans = (plan.has("Seq Scan") for touched in everything for plan in touched.values())
    yield exactly("sequential scans in any plan", 0, scans)
    lists = (plan for touched in everything for (_, page), plan in touched.items() if page != ANY_PAGE)
    yield exactly("sorts in the plan of a list", 0, (plan.has("Sort") for plan in lists))
    full = {tasks: touched for tasks, touched in by_user.items() if tasks >= 10 * PAGE}
    for kind, sizes, bounded in (
        ("table", by_table, UNMATCHED),
        ("user", full, (*DUE_FILTERS, *UNMATCHED)),
    ):
        keys = [key for key in sizes[min(sizes)] if key[0] not in bounded]
        flat_lists, others = [key for key in keys if key[1]], [key for key in keys if not key[1]]
        yield _more_pages(f"a list, {kind}", sizes, flat_lists, MORE_PAGES)
        yield _more_pages(f"another operation, {kind}", sizes, others, MORE_PAGES_OF_WRITES)
    tasks, touched = max(by_user.items())
    per_task = {query: touched[query, FIRST].buffers() / tasks for query in UNMATCHED}
    worst = max(per_task, key=lambda query: per_task[query])
    name = f"pages touched per task of a user with {tasks:,} tasks, of which none matches the filter"
    yield at_most(name, PAGES_PER_TASK, per_task[worst], note=f" (worst: {worst})")


def _more_pages(kind: str, sizes: Sizes, keys: Sequence[Key], limit: int) -> Figure:
    smallest, *_, largest = sorted(sizes)

    def more(key: Key) -> int:
        pages = [touched[key].buffers() for touched in sizes.values()]
        return max(pages) - sizes[smallest][key].buffers()

    worst = max(keys, key=more)
    name = f"additional pages touched by {kind} with {smallest:,} to {largest:,} tasks"
    return at_most(name, limit, more(worst), note=f" (worst: {', '.join(filter(None, worst))})")


def _lines(by_table: Sizes, by_user: Sizes) -> Iterator[str]:
    largest = max(by_table)
    yield "## Pages touched"
    yield ""
    yield (
        "Pages (8 KiB, *shared buffers*) that PostgreSQL hits or reads for the statement of a request, as"
        " the service sends it, under its role and row security; the median of"
        f" {REPEATS} requests. They do not depend on the speed of the machine. A page of a list has"
        f" {PAGE} tasks, for which the service reads {PAGE + 1} rows."
        " The middle page has half of the user's tasks before it. The oldest quarter of the tasks has no due"
        " date."
    )
    yield ""
    yield (
        f"As the table and the number of users grow; the user has {HEAVY_TASKS:,} tasks, and for"
        f" `deleted=true` {TRASH_TASKS:,} deleted ones, whose place in the table is the same at every size:"
    )
    yield ""
    lists = [*SORTS, *FILTERS, *DUE_FILTERS]
    yield from _table(by_table, "list", lists, "tasks in the table", indexes=True)
    yield (
        f"As the number of the user's tasks grows, in a table with {largest:,} tasks, among which each of"
        " these is on a separate page. A user with few tasks has short pages:"
    )
    yield ""
    yield from _table(by_user, "list", lists, "tasks of the user", indexes=True)
    yield (
        "The week is one of about 60, so a user with few tasks has few in it. A filter that is not in the"
        " index is checked row by row, in the order of the list, until the page is full. In the worst case"
        " no task matches, and all tasks of the user are read, which the quota"
        " (`MAX_TASKS_PER_USER`, by default 20,000) bounds:"
    )
    yield ""
    yield from _table(by_user, "list", UNMATCHED, "tasks of the user", indexes=True)
    operations = [name for name, page in by_table[largest] if page == ANY_PAGE]
    yield "The other operations, as the table grows and as the number of the user's tasks grows:"
    yield ""
    yield from _table(by_table, "operation", operations, "tasks in the table")
    yield from _table(by_user, "operation", operations, "tasks of the user")


def _table(
    sizes: Sizes, kind: str, names: Sequence[str], of_size: str, *, indexes: bool = False
) -> Iterator[str]:
    """A row for each page of these lists, or for each of these operations."""
    largest = sizes[max(sizes)]
    keys = [key for name in names for key in largest if key[0] == name]
    headings = [kind, *(["page", "index"] if indexes else []), *(f"{size:,}" for size in sizes)]
    headings[-len(sizes)] = f"{of_size}: {headings[-len(sizes)]}"
    yield from table(headings, (_row(key, largest[key], sizes, indexes=indexes) for key in keys))


def _row(key: Key, largest: plans.Plan, sizes: Sizes, *, indexes: bool) -> list[str]:
    name, page = key
    pages = [f"{touched[key].buffers():,}" if key in touched else "–" for touched in sizes.values()]
    if indexes:
        query = name.replace(data.DUE_WEEK, "due_from=…&due_before=…")
        return [f"`{query}`", page, ", ".join(f"`{index}`" for index in largest.indexes()), *pages]
    return [name, *pages]


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


def _plan_lines(touched: Touched, size: int) -> Iterator[str]:
    yield f"<details><summary>EXPLAIN (ANALYZE, BUFFERS) of each operation, {size:,} tasks</summary>"
    yield ""
    for (name, page), plan in touched.items():
        if name not in UNMATCHED and (page != FIRST or (name, MIDDLE) not in touched):
            yield from (f"{name}{f', page: {page}' if page else ''}:", "", "```", plan.text, "```", "")
    yield "</details>"
    yield ""
